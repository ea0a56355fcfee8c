"""One-step estimates of an image at a chosen timestep, and the gradient of a loss on them (Eq. 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcpkg.method.diffusion import predict_x0
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import set_lora_tokens
from mcpkg.method.prompts import tokenize_prompts


@dataclass(frozen=True)
class OneStep:
    """Estimates of images from their noisy latents in one pass of the model, all at one timestep."""

    timestep: int
    noisy: Float[Tensor, "b c k k"]
    """z_t."""
    noise_pred: Float[Tensor, "b c k k"]
    """The predicted noise, or the velocity for a scheduler with v-prediction."""
    images: Float[Tensor, "b 3 h w"]
    """The input of B in Eq. 7: the decoded estimate of x0, in about [0, 1]; not clamped."""

    def __len__(self) -> int:
        return len(self.images)


@torch.no_grad()
def estimate_x0(
    backend: Backend,
    latents: Float[Tensor, "b c k k"],
    noise: Float[Tensor, "b c k k"],
    prompts: Sequence[str],
    timestep: int,
) -> OneStep:
    """Add noise to clean latents up to a timestep and estimate x0 in one step, with the backend's current weights.

    Args:
        latents: from `backend.encode`.
        noise: standard normal; use the same at every timestep to compare timesteps.
        prompts: one per image; no guidance.
        timestep: 0 to the schedule's length - 1, the same for all.

    Raises:
        ValueError: the timestep is outside the schedule, or the number of prompts differs from that of images.
    """
    scheduler, t = backend.pipeline.scheduler, _timesteps(backend, latents, timestep)
    if len(prompts) != len(latents):
        raise ValueError(f"prompts: {len(prompts)} for {len(latents)} images. Give one for each.")
    noisy = scheduler.add_noise(latents, noise.to(latents), t)
    ids = tokenize_prompts(backend.pipeline.tokenizer, prompts)
    set_lora_tokens(backend, ids)
    context = backend.pipeline.text_encoder(ids.to(backend.device)).last_hidden_state
    noise_pred = backend.pipeline.unet(noisy.to(context), t, context).sample.float()
    images = backend.decode(predict_x0(noisy, noise_pred, t, scheduler)).float()
    return OneStep(timestep, noisy, noise_pred, images)


def x0_gradient(
    backend: Backend, step: OneStep, loss: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, " b"]]
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b c k k"]]:
    """Compute a loss on the estimated images and its gradient with respect to the predicted noise.

    Through this gradient the loss reaches the weights.

    Args:
        loss: function of images, one value each; that of Eq. 7, or another that needs an image.

    Note:
        By Tweedie's formula the gradient has a factor of sqrt((1 - a_t) / a_t): it grows with the timestep, even
        where the estimate contains nothing that the loss can measure.
    """
    t = _timesteps(backend, step.noisy, step.timestep)
    noise_pred = step.noise_pred.detach().requires_grad_()
    images = backend.decode(predict_x0(step.noisy, noise_pred, t, backend.pipeline.scheduler)).float()
    values = loss(images)  # b
    (gradient,) = torch.autograd.grad(values.sum(), noise_pred)
    return values.detach(), gradient


def _timesteps(backend: Backend, latents: Tensor, timestep: int) -> Int[Tensor, " b"]:
    """Repeat the timestep for each row; raise ValueError if it is outside the schedule."""
    length = backend.pipeline.scheduler.config.num_train_timesteps
    if not 0 <= timestep < length:
        raise ValueError(f"timestep: {timestep} is not in 0 to {length - 1}, the timesteps of the schedule.")
    return torch.full((len(latents),), timestep, device=latents.device)
