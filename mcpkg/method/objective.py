"""The objective of Eqs. 9 and 10 on one batch: the weighted sum of reconstruction, refocusing and identity losses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.batch import Batch
from mcpkg.method.config import Method, Phase
from mcpkg.method.diffusion import add_noise, min_snr_weight, training_target, velocity_weight
from mcpkg.method.identity import NOT_JUDGED, JudgedFaces, identity_terms, judged_samples, own_pass
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import lora_disabled, set_lora_tokens
from mcpkg.method.prompts import encode_ids, tokenize_prompts
from mcpkg.method.reconstruction import masked_reconstruction
from mcpkg.method.refocusing import capture_placeholders, refocusing_terms


@dataclass(frozen=True)
class BatchLoss:
    """The objective of one batch."""

    loss: Float[Tensor, ""]
    """The weighted sum, to be differentiated."""
    terms: dict[str, Float[Tensor, " m"]]
    """Each loss term before its weight, one value per sample (or placeholder, or image) that it applied to."""
    maps: AttentionMaps | None
    """Of this forward pass, if refocusing read them."""
    faces: JudgedFaces
    """What the identity loss judged."""


def training_loss(
    backend: Backend, method: Method, phase: Phase, batch: Batch, target: Float[Tensor, "1 d"], rng: torch.Generator
) -> BatchLoss:
    """The objective (Eqs. 9 and 10) on one batch; all of its tasks go through the UNet in one forward pass, and through
    a second one if the identity loss has its own.

    Args:
        phase: with the weights of this very step.
        batch: `method.samples_per_task` samples of each of `phase.tasks`, or of one of them, one task after the other.
        target: the embedding that the identity loss pulls to.
        rng: draws noise, timesteps and the jitter of face crops.
    """
    pipeline, scheduler = backend.pipeline, backend.pipeline.scheduler
    max_timestep = round(phase.max_timestep * scheduler.config.num_train_timesteps)
    noisy, noise, t = add_noise(batch.images.latents, scheduler, rng, max_timestep)  # Eq. 1
    ids = tokenize_prompts(pipeline.tokenizer, batch.prompts)  # b n
    set_lora_tokens(backend, ids)
    with capture_placeholders(backend, ids, phase.refocusing) as maps:  # Eq. 2
        context = encode_ids(pipeline.text_encoder, ids)  # b n d
        noise_pred = pipeline.unet(noisy, t, context).sample.float()

    target_noise = training_target(batch.images.latents, noise, t, scheduler)
    if "empty" in batch.tasks:  # what the model predicted before training
        rows = torch.tensor([task == "empty" for task in batch.tasks])
        target_noise = target_noise.clone()
        with torch.no_grad(), lora_disabled(pipeline.unet):
            target_noise[rows] = pipeline.unet(noisy[rows], t[rows], context[rows]).sample.float()
    reconstruction = masked_reconstruction(noise_pred, target_noise, batch.images.mask, method.mask_floor)  # Eqs. 4-6
    if method.weighting == "velocity":
        reconstruction = reconstruction * velocity_weight(t, scheduler)
    elif method.weighting == "min_snr":
        reconstruction = reconstruction * min_snr_weight(t, scheduler, method.min_snr_gamma)
    tasks = dict.fromkeys(batch.tasks)  # each once
    terms = dict(zip(tasks, reconstruction.split(method.samples_per_task), strict=True))
    if maps is not None:
        terms["refocusing"] = refocusing_terms(maps, batch.images.face, phase.refocusing, method.mask_floor)  # Eq. 8
    faces = NOT_JUDGED
    if phase.weights.identity > 0:
        if method.identity_pass == "own" and judged_samples(method, batch).any():
            noisy, noise_pred, t = own_pass(backend, method, batch, context, rng)
        faces = identity_terms(backend, method, batch, noisy, noise_pred, t, target, rng)  # Eq. 7
        terms["identity"] = faces.losses
    return BatchLoss(weighted_sum(terms, phase, method.samples_per_task), terms, maps, faces)


def weighted_sum(terms: dict[str, Float[Tensor, " m"]], phase: Phase, samples_per_task: int) -> Float[Tensor, ""]:
    """Eq. 10: the sum over tasks of means over samples; identity is a mean over the images that it judged."""
    weights = vars(phase.weights) | {"refocusing": phase.refocusing.weight}
    total = 0.0
    for name, values in terms.items():
        count = len(values) if name == "identity" else samples_per_task
        if len(values):
            total = total + weights[name] * values.sum() / count
    return total
