"""Decoding for the identity loss (D in Eq. 7): the face's part of the latents suffices, and costs less."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.method.config import IDENTITY_DECODINGS
from mcpkg.method.interfaces import Backend

REACH = 3.0
"""Distance from the middle of the five landmarks to the edge of an embedder's crop, in mean distances of the landmarks
from their middle."""
CONTEXT_CELLS = 4
"""Margin around the crop, in latent cells: about the reach of a decoder's convolutions."""


def decode_faces(
    backend: Backend,
    latents: Float[Tensor, "b c k k"],
    landmarks: Float[Tensor, "b 5 2"],
    decoding: str,
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 5 2"]]:
    """Images of predicted latents, and the landmarks in the frames of these images; with gradient.

    Args:
        landmarks: x, y in [0, 1] of the whole frame.
        decoding: "whole", as in the paper; "face", a square around each face, of one size for all; "tiny", the whole
            with the backend's tiny autoencoder.

    Raises:
        ValueError: an unknown decoding, or the backend has no tiny autoencoder.

    Note:
        A decoder's normalisation and attention depend on the whole frame, so that a part decodes to nearly the same as
        within the whole. `python -m benchmarks.identity_decoding` measures how far the gradients agree.
    """
    match decoding:
        case "whole":
            return backend.decode(latents).float(), landmarks
        case "tiny":
            check_decoding(backend, decoding)
            tiny = backend.tiny_autoencoder
            return (tiny.decode(latents.to(tiny.dtype)).sample / 2 + 0.5).float(), landmarks
        case "face":
            return _decode_squares(backend, latents, landmarks)
    raise ValueError(f"decoding: {decoding!r} unknown. Choose from {list(IDENTITY_DECODINGS)}.")


def _decode_squares(
    backend: Backend, latents: Float[Tensor, "b c k k"], landmarks: Float[Tensor, "b 5 2"]
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 5 2"]]:
    corners, side = face_squares(landmarks, latents.shape[-1])
    parts = [each[:, y : y + side, x : x + side] for each, (x, y) in zip(latents, corners.tolist(), strict=True)]
    inside = (landmarks * latents.shape[-1] - corners[:, None]) / side
    return backend.decode(torch.stack(parts)).float(), inside


def check_decoding(backend: Backend, decoding: str) -> None:
    """Raise unless the backend has the decoder that `decoding` needs.

    Raises:
        ValueError: `decoding` is "tiny" and the backend has no tiny autoencoder.
    """
    if decoding == "tiny" and backend.tiny_autoencoder is None:
        advice = "; ".join(filter(None, ("Take 'face'", backend.tiny_autoencoder_advice)))
        raise ValueError(f"identity_decoding 'tiny': {backend.name} has no tiny autoencoder here. {advice}.")


def face_squares(landmarks: Float[Tensor, "b 5 2"], cells: int) -> tuple[Tensor, int]:
    """Left upper corner of a square around each face, and the common side, in latent cells of a frame of `cells`."""
    centre = landmarks.mean(dim=1)  # b 2
    size = (landmarks - centre[:, None]).norm(dim=2).mean(dim=1)  # b
    side = min(cells, 2 * math.ceil(REACH * size.max().item() * cells + CONTEXT_CELLS))
    corners = (centre * cells - side / 2).round().long().clamp(0, cells - side)  # b 2
    return corners, side
