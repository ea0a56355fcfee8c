"""The objective of Eqs. 9 and 10 on one batch: which word may look where, and whose face came out."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mcpkg.attention import MapStore, capture_attention
from mcpkg.backends.base import Backend
from mcpkg.concepts import Concept
from mcpkg.config import LossWeights, Method, Phase
from mcpkg.face_decoding import decode_faces
from mcpkg.losses import identity_loss, masked_reconstruction, mean_over_grids
from mcpkg.noising import add_noise, predict_x0, training_target, velocity_weight
from mcpkg.prompts import REFERENCE, SOURCE, tokenize_prompts, vector_tokens
from mcpkg.rivals import FORMS

ROLES = {"source": SOURCE, "reference": REFERENCE}
CROPS = 4  # jittered face crops per predicted image: a pattern that fools one crop rarely fools all
JITTER = 0.05  # their standard deviation in shift (face sizes), scale and rotation (radians)


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
    ids = tokenize_prompts(pipeline.tokenizer, prompts)                                          # b n
    with capture_words(backend, ids, method, weights) as maps:
        context = pipeline.text_encoder(ids.to(backend.device)).last_hidden_state                # b n d
        noise_pred = pipeline.unet(noisy, t, context).sample.float()

    truth = training_target(batch.latents, noise, t, pipeline.scheduler)
    reconstruction = masked_reconstruction(noise_pred, truth, batch.mask)                        # b
    if method.weighting == "velocity":
        reconstruction = reconstruction * velocity_weight(t, pipeline.scheduler)
    terms = dict(zip(phase.tasks, reconstruction.split(n), strict=True))
    if maps is not None:
        terms["refocusing"] = refocusing_terms(maps, batch, method, weights)
    seen = lost = 0
    if weights.identity > 0:
        composed = torch.tensor([task == "composed" for task in phase.tasks for _ in range(n)])
        usable = composed & (t.cpu() < method.identity_max_timestep * length)                    # t < T'
        guess = noisy, noise_pred, t
        terms["identity"], lost = identity_terms(backend, *guess, batch, usable, target, rng, method.identity_decoding)
        seen = int(usable.sum())
    return BatchLoss(weighted_sum(terms, weights, n), terms, maps, seen, lost)


def capture_words(backend: Backend, ids: Int[Tensor, "b n"], method: Method, weights: LossWeights):
    """Capture the placeholders' maps where refocusing needs them; a context that yields None elsewhere."""
    positions = word_positions(backend, ids, method.vectors) if weights.refocusing > 0 else {}
    if not positions:
        return nullcontext()
    unet, size = backend.pipeline.unet, backend.attention_size
    # as in the authors' code: one grid of the down and up blocks, not the middle
    return capture_attention(unet, positions, layers=r"^(down|up)_blocks", min_size=size, max_size=size)


def word_positions(backend: Backend, ids: Int[Tensor, "b n"], vectors: int = 1) -> dict[str, Bool[Tensor, "b n"]]:
    """Role -> where its word stands in each tokenized prompt, for the roles whose word is in any.

    Raises:
        ValueError: a word was never added to the tokenizer.
    """
    added, positions = backend.pipeline.tokenizer.get_added_vocab(), {}
    for role, word in ROLES.items():
        tokens = vector_tokens(replace(word, vectors=vectors))
        if not added.keys() >= set(tokens):
            raise ValueError(f"{word.token}: not a word of this model with {vectors} vectors. Call add_words first.")
        positions[role] = torch.isin(ids, torch.tensor([added[token] for token in tokens]))
    return {role: at for role, at in positions.items() if at.any()}


def word_regions(batch: Concept) -> dict[str, Float[Tensor, "b 1 h w"]]:
    """Role -> where its word may look: [V1] at the face, [V2] at the rest, also where a prompt holds both."""
    return {"source": batch.face, "reference": 1 - batch.face}


def refocusing_terms(maps: MapStore, batch: Concept, method: Method, weights: LossWeights) -> Float[Tensor, " r"]:
    """Attention Refocusing (Eq. 8) or the form that the weights name, one value per word and prompt that holds it."""
    regions, values = word_regions(batch), []
    # S is a choice of Eq. 8 only: the other forms scale as published
    options = {"scale": method.refocusing_scale} if weights.refocusing_form == "mask" else {}
    for role, layer_maps in maps.maps.items():
        region = regions[role][maps.rows[role].to(batch.face.device)]
        values.append(mean_over_grids(FORMS[weights.refocusing_form], layer_maps, region, **options))
    return torch.cat(values)


def identity_terms(
    backend: Backend,
    noisy: Float[Tensor, "b c k k"],
    noise_pred: Float[Tensor, "b c k k"],
    t: Int[Tensor, " b"],
    batch: Concept,
    usable: Bool[Tensor, " b"],
    target: Float[Tensor, "1 d"],
    rng: torch.Generator,
    decoding: str = "whole",
) -> tuple[Float[Tensor, " m"], int]:
    """Identity loss of predicted images (Eq. 7), and how many of them showed no face.

    Note:
        The face is cropped at the reference image's own landmarks, jittered, for the predicted
        image shares its layout; a detector would be unsure at high noise and gives no gradient.
    """
    if not usable.any():
        return noise_pred.new_zeros(0), 0
    usable = usable.to(noisy.device)
    latents = predict_x0(noisy[usable], noise_pred[usable], t[usable], backend.pipeline.scheduler)
    images, landmarks = decode_faces(backend, latents, batch.landmarks[usable], decoding)         # m 3 s s
    with torch.autocast(backend.device.type, enabled=False):  # faces are looked at in fp32
        with torch.no_grad():
            size = (backend.image_size_px,) * 2  # parsers know faces of that size; a part is enlarged to it
            found = backend.face_parser.parse(functional.interpolate(images.clamp(0, 1), size, mode="bilinear")).found
        images, landmarks = images[found], landmarks[found]
        if not len(images):
            return noise_pred.new_zeros(0), len(found)
        crops = backend.identity_trainer.embed(
            images.repeat(CROPS, 1, 1, 1), jitter_landmarks(landmarks.repeat(CROPS, 1, 1), rng)
        )
    losses = identity_loss(crops, target.expand_as(crops))                                       # crops * m
    return losses.unflatten(0, (CROPS, -1)).mean(dim=0), int((~found).sum())


def jitter_landmarks(landmarks: Float[Tensor, "b 5 2"], rng: torch.Generator) -> Float[Tensor, "b 5 2"]:
    """Shift, scale and turn each face's landmarks a little, about their centre."""
    noise = JITTER * torch.randn(4, len(landmarks), 1, generator=rng).to(landmarks)
    shift_x, shift_y, scale, angle = noise                                                       # b 1 each
    centre = landmarks.mean(dim=1, keepdim=True)                                                 # b 1 2
    x, y = (landmarks - centre).unbind(dim=2)                                                    # b 5
    size = torch.stack((x, y), dim=2).norm(dim=2).mean(dim=1, keepdim=True)                      # b 1
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    turned = torch.stack((cos * x - sin * y + size * shift_x, sin * x + cos * y + size * shift_y), dim=2)
    return centre + turned


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
