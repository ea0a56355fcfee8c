"""The objective of Eqs. 9 and 10 on one batch: which word may look where, and whose face came out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import mcpkg.method.attention_losses  # noqa: F401, registers its forms
from mcpkg.method.attention_capture import MapStore
from mcpkg.method.batch import Concept
from mcpkg.method.config import LossWeights, Method, Phase
from mcpkg.method.diffusion import add_noise, training_target, velocity_weight
from mcpkg.method.identity import identity_terms
from mcpkg.method.interfaces import Backend
from mcpkg.method.prompts import tokenize_prompts
from mcpkg.method.reconstruction import masked_reconstruction
from mcpkg.method.refocusing import capture_words, refocusing_terms


@dataclass(frozen=True)
class BatchLoss:
    """What the objective made of one batch."""

    loss: Float[Tensor, ""]
    """The weighted sum, to be differentiated."""
    terms: dict[str, Float[Tensor, " m"]]
    """Each loss term before its weight, one value per sample (or word, or image) that it applied to."""
    maps: MapStore | None
    """Where the words looked, if refocusing read it; `leakage.leakage_rows(maps, word_regions(batch))` scores it."""
    identity_images: int
    """Predicted images that the identity loss was asked to judge."""
    faceless: int
    """Those of them in which no face was found; they are left out of the loss."""


def training_loss(
    backend: Backend,
    method: Method,
    phase: Phase,
    batch: Concept,
    prompts: list[str],
    target: Float[Tensor, "1 d"],
    rng: torch.Generator,
) -> BatchLoss:
    """The objective (Eqs. 9 and 10) on one batch; all of its tasks go through the UNet in one forward pass.

    Args:
        phase: its weights count as they are; give it the weights of this very step.
        batch: `method.samples_per_task` samples of each of `phase.tasks`, one task after the other.
        prompts: one per sample, of the sample's task.
        target: whom the identity loss pulls to, from `source_identity`.
        rng: draws noise, timesteps and the jitter of face crops.

    Note:
        The identity loss reads those composed samples whose timestep happens to be below T', where the authors
        run a second pass for it.
    """
    pipeline, weights, n = backend.pipeline, phase.weights, method.samples_per_task
    length = pipeline.scheduler.config.num_train_timesteps
    noisy, noise, t = add_noise(batch.latents, pipeline.scheduler, rng, round(phase.max_timestep * length))
    ids = tokenize_prompts(pipeline.tokenizer, prompts)  # b n
    with capture_words(backend, ids, method, weights) as maps:
        context = pipeline.text_encoder(ids.to(backend.device)).last_hidden_state  # b n d
        noise_pred = pipeline.unet(noisy, t, context).sample.float()

    truth = training_target(batch.latents, noise, t, pipeline.scheduler)
    reconstruction = masked_reconstruction(noise_pred, truth, batch.mask)  # b
    if method.weighting == "velocity":
        reconstruction = reconstruction * velocity_weight(t, pipeline.scheduler)
    terms = dict(zip(phase.tasks, reconstruction.split(n), strict=True))
    if maps is not None:
        terms["refocusing"] = refocusing_terms(maps, batch, method, weights)
    seen = lost = 0
    if weights.identity > 0:
        composed = torch.tensor([task == "composed" for task in phase.tasks for _ in range(n)])
        usable = composed & (t.cpu() < method.identity_max_timestep * length)  # t < T'
        guess = noisy, noise_pred, t
        terms["identity"], lost = identity_terms(backend, *guess, batch, usable, target, rng, method.identity_decoding)
        seen = int(usable.sum())
    return BatchLoss(weighted_sum(terms, weights, n), terms, maps, seen, lost)


def weighted_sum(
    terms: dict[str, Float[Tensor, " m"]], weights: LossWeights, samples_per_task: int
) -> Float[Tensor, ""]:
    """Eq. 10: the sum over tasks of means over samples; identity is a mean over the images that it saw."""
    total = 0.0
    for name, values in terms.items():
        count = len(values) if name == "identity" else samples_per_task
        if len(values):
            total = total + getattr(weights, name) * values.sum() / count
    return total
