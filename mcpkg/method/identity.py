"""The identity loss (Eq. 7): is the face in the predicted image the source's?"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mcpkg.method.batch import Concept
from mcpkg.method.diffusion import predict_x0
from mcpkg.method.identity_crop import decode_faces
from mcpkg.method.interfaces import Backend


def identity_loss(embedding: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """One minus the cosine of the generated face and the source's face (Eq. 7).

    Args:
        embedding: of the face in the predicted image; need not have unit length.
        target: of the source, in the same embedder's space.

    Returns:
        One loss per sample: 0 same direction, 1 unrelated, 2 opposite.
    """
    return 1 - F.cosine_similarity(embedding, target, dim=1)


CROPS = 4  # jittered face crops per predicted image: a pattern that fools one crop rarely fools all


JITTER = 0.05  # their standard deviation in shift (face sizes), scale and rotation (radians)


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
    images, landmarks = decode_faces(backend, latents, batch.landmarks[usable], decoding)  # m 3 s s
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
    losses = identity_loss(crops, target.expand_as(crops))  # crops * m
    return losses.unflatten(0, (CROPS, -1)).mean(dim=0), int((~found).sum())


def jitter_landmarks(landmarks: Float[Tensor, "b 5 2"], rng: torch.Generator) -> Float[Tensor, "b 5 2"]:
    """Shift, scale and turn each face's landmarks a little, about their centre."""
    noise = JITTER * torch.randn(4, len(landmarks), 1, generator=rng).to(landmarks)
    shift_x, shift_y, scale, angle = noise  # b 1 each
    centre = landmarks.mean(dim=1, keepdim=True)  # b 1 2
    x, y = (landmarks - centre).unbind(dim=2)  # b 5
    size = torch.stack((x, y), dim=2).norm(dim=2).mean(dim=1, keepdim=True)  # b 1
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    turned = torch.stack((cos * x - sin * y + size * shift_x, sin * x + cos * y + size * shift_y), dim=2)
    return centre + turned
