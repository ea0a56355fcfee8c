"""Fine-tune a base model on a few captioned pictures of what its training population lacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator
from torch.optim import AdamW

from mcpkg.course.bias import CaptionedRenders
from mcpkg.inference.model_patching import temporarily_patched
from mcpkg.method.diffusion import add_noise, training_target, velocity_weight
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import add_lora
from mcpkg.method.prompts import encode_prompts
from mcpkg.method.reconstruction import masked_reconstruction

RANK, BATCH = 16, 6


@contextmanager
def train_few_shot(
    backend: Backend, rendered: CaptionedRenders, steps: int = 120, learning_rate: float = 2e-3, seed: int = 0
) -> Iterator[list[float]]:
    """Train a LoRA for the UNet on a few captioned pictures (Eq. 1); the backend has it until the end of the block.

    Args:
        rendered: the training pictures; a few dozen at most, since they are encoded in one batch.
        steps: training steps of `BATCH` pictures each; the learning rate falls linearly to 0.

    Yields:
        The loss of each step.
    """
    pipeline, rng, losses = backend.pipeline, Generator().manual_seed(seed), []
    with temporarily_patched(backend):
        with torch.no_grad():
            latents = backend.encode(rendered.renders.image)
            context = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, rendered.captions)
        optimizer = AdamW(add_lora(pipeline.unet, RANK, "all", rng).values(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in range(steps):
            rows = torch.randint(len(latents), (BATCH,), generator=rng).to(latents.device)
            noisy, noise, t = add_noise(latents[rows], pipeline.scheduler, rng)
            noise_pred = pipeline.unet(noisy, t, context[rows]).sample
            truth = training_target(latents[rows], noise, t, pipeline.scheduler)
            errors = masked_reconstruction(noise_pred, truth, torch.ones_like(noisy[:, :1]))
            loss = (errors * velocity_weight(t, pipeline.scheduler)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        yield losses
