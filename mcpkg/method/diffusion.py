"""Adding noise to latents (Eq. 1; its loss is in `reconstruction`), and estimating the clean latents (Eq. 7)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def add_noise(
    latents: Float[Tensor, "b c h w"],
    scheduler,
    generator: torch.Generator,
    max_timestep: int | Int[Tensor, " b"] | None = None,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"], Int[Tensor, " b"]]:
    """Add noise to each sample at a random timestep: z_t = sqrt(a_t) z + sqrt(1 - a_t) eps.

    Args:
        latents: clean z, scaled as the UNet expects.
        scheduler: a diffusers scheduler; only its noise schedule is used.
        generator: draws noise and timesteps; on any device.
        max_timestep: t is drawn uniformly from 0 to max_timestep - 1, for all samples or for each;
            the schedule's whole length if None.

    Returns:
        Noisy latents, the noise eps, and the timesteps t.

    Raises:
        ValueError: if max_timestep lies outside 1 to the schedule's length.
    """
    length = scheduler.config.num_train_timesteps
    highest = torch.as_tensor(length if max_timestep is None else max_timestep)
    if highest.min() < 1 or highest.max() > length:
        raise ValueError(f"max_timestep: {highest.tolist()} is not in 1 to {length}, the schedule's length.")
    b, device = len(latents), generator.device
    noise = torch.randn(latents.shape, generator=generator, device=device).to(latents)
    # in float64, u < 1 cannot round up to the bound itself
    u = torch.rand(b, generator=generator, device=device, dtype=torch.float64)
    t = (u * highest.to(device)).long().to(latents.device)  # b
    return scheduler.add_noise(latents, noise, t), noise, t


def training_target(
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    scheduler,
) -> Float[Tensor, "b c h w"]:
    """What the UNet should predict: the noise or the velocity, by the scheduler's prediction type.

    Raises:
        ValueError: another prediction type.
    """
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            return scheduler.get_velocity(latents, noise, t)
        case other:
            raise ValueError(f"prediction_type: {other!r} is not supported. Use 'epsilon' or 'v_prediction'.")


def velocity_weight(t: Int[Tensor, " b"], scheduler, highest: float = 20.0) -> Float[Tensor, " b"]:
    """Weight of a squared noise error that makes noise levels count as in v-prediction: 1 / a_t, at most `highest`.

    The error in the velocity v is the error in eps over sqrt(a_t) (Salimans and Ho 2022). The plain noise error of a
    trained model is tens of times smaller at high noise than at low, although high noise decides the colours.
    """
    if scheduler.config.prediction_type == "v_prediction":
        return torch.ones(len(t), device=t.device)  # that error is already one in the velocity
    return (1 / scheduler.alphas_cumprod[t.cpu()]).clamp(max=highest).to(t.device)


def min_snr_weight(t: Int[Tensor, " b"], scheduler, gamma: float) -> Float[Tensor, " b"]:
    """Weight of a squared error that makes noise levels count as min(SNR, gamma) in x0 (Hang et al. 2023, min-SNR).

    With SNR = a_t / (1 - a_t), the squared error in x0 is that in eps over SNR, and that in the velocity over SNR + 1.

    Args:
        gamma: SNR above which errors in x0 count no more; 5 in the publication.

    Returns:
        min(SNR, gamma) / SNR where the model predicts noise, min(SNR, gamma) / (SNR + 1) where it predicts velocity.
    """
    a = scheduler.alphas_cumprod[t.cpu()].double()
    snr = a / (1 - a)
    if scheduler.config.prediction_type == "v_prediction":
        weight = snr.clamp(max=gamma) / (snr + 1)
    else:
        weight = (gamma / snr).clamp(max=1)  # the same as min(SNR, gamma) / SNR, and 1 where SNR is 0
    return weight.float().to(t.device)


def predict_x0(
    noisy: Float[Tensor, "b c h w"],
    noise_pred: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    scheduler,
) -> Float[Tensor, "b c h w"]:
    """Tweedie's estimate of the clean latents, z0 = (z_t - sqrt(1 - a_t) eps) / sqrt(a_t), differentiable.

    Args:
        noisy: z_t.
        noise_pred: the UNet's output, noise or velocity by the scheduler's prediction type.
        t: timesteps.

    Raises:
        ValueError: another prediction type.

    Note:
        The estimate is a mean over all images that fit z_t, so it is blurred where t is high.
        This is why the identity loss keeps t below T'.
    """
    a = scheduler.alphas_cumprod.to(noisy)[t.to(noisy.device)].reshape(-1, 1, 1, 1)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (noisy - (1 - a).sqrt() * noise_pred) / a.sqrt()
        case "v_prediction":
            return a.sqrt() * noisy - (1 - a).sqrt() * noise_pred
        case other:
            raise ValueError(f"prediction_type: {other!r} is not supported. Use 'epsilon' or 'v_prediction'.")
