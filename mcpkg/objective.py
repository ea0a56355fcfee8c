"""The objective of Eq. 10 on one batch: which word may look where, and whose face came out."""

from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.attention import MapStore, capture_attention
from mcpkg.backends.base import Backend
from mcpkg.concepts import Concept
from mcpkg.config import LossWeights, Method
from mcpkg.losses import attention_refocusing, attention_share, identity_loss, mean_over_layers
from mcpkg.noising import predict_x0
from mcpkg.prompts import REFERENCE, SOURCE, token_positions

ROLES = {"source": SOURCE, "reference": REFERENCE}
CROPS = 4  # jittered face crops per predicted image: a pattern that fools one crop rarely fools all
JITTER = 0.05  # their standard deviation in shift (face sizes), scale and rotation (radians)


def capture_words(backend: Backend, prompts: list[str], weights: LossWeights):
    """Capture the placeholders' maps where refocusing needs them; a context that yields None elsewhere."""
    if weights.refocusing == 0:
        return nullcontext()
    pipeline, size = backend.pipeline, backend.attention_size
    positions = {role: token_positions(pipeline.tokenizer, prompts, word.token, required=False) for role, word in ROLES.items()}
    positions = {role: at for role, at in positions.items() if at.any()}
    # as in the authors' code: one grid of the down and up blocks, not the middle
    return capture_attention(pipeline.unet, positions, layers=r"^(down|up)_blocks", min_size=size, max_size=size)


def refocusing_terms(maps: MapStore, batch: Concept, method: Method, weights: LossWeights) -> Float[Tensor, " r"]:
    """Attention Refocusing (Eq. 8), one value per word and prompt that holds it."""
    regions = {"source": batch.face, "reference": 1 - batch.face}  # composed prompts hold both words
    values = []
    for role, layer_maps in maps.maps.items():
        region = regions[role][maps.rows[role].to(batch.face.device)]
        if weights.refocusing_form == "share":
            values.append(mean_over_layers(attention_share, layer_maps, region))
        else:
            values.append(mean_over_layers(attention_refocusing, layer_maps, region, scale=method.refocusing_scale))
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
    images = backend.decode(latents).float()                                                     # m 3 h w
    with torch.no_grad():
        found = backend.face_parser.parse(images.clamp(0, 1)).found
    images, landmarks = images[found], batch.landmarks[usable][found]
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


def weighted_sum(terms: dict[str, Float[Tensor, " m"]], weights: LossWeights, samples_per_task: int) -> Float[Tensor, ""]:
    """Eq. 10: the sum over tasks of means over samples; identity is a mean over the images that it saw."""
    total = 0.0
    for name, values in terms.items():
        count = len(values) if name == "identity" else samples_per_task
        if len(values):
            total = total + getattr(weights, name) * values.sum() / count
    return total
