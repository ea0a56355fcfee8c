"""Upright faces of one size, cut out by five landmarks: B in Eq. 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

Fit = Literal["frame", "crop"]

ARCFACE_TEMPLATE = tuple(
    ((x + 0.5) / 112, (y + 0.5) / 112)
    for x, y in ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
)
"""Landmarks in ArcFace's training crops; published in pixels of 112, counted from the centre of the first."""
FFHQ_TEMPLATE = tuple(
    ((x + 0.5) / 512, (y + 0.5) / 512)
    for x, y in ((192.981, 239.947), (318.903, 240.194), (256.634, 314.019), (201.261, 371.410), (313.089, 371.151))
)
"""Landmarks in the training crops of face parsers and restorers, with hair and chin; in facexlib in pixels of 512."""


def align_faces(
    images: Float[Tensor, "b 3 h w"],
    landmarks: Float[Tensor, "b 5 2"],
    template: Sequence[tuple[float, float]],
    size_px: int,
    fit: Fit = "frame",
) -> Float[Tensor, "b 3 {size_px} {size_px}"]:
    """Faces rotated, moved and scaled by the similarity transform that best fits the landmarks to the template.

    With points as complex numbers the least-squares similarity is w -> a w + b, a = sum(conj(w) z) / sum |w|^2
    for centred w of the template and z of the landmarks. Differentiable in images and landmarks.

    Args:
        images: square; outside the image, its edge is repeated.
        landmarks: x, y in [0, 1] of the frame.
        template: where the five landmarks of an average face lie in a crop, x, y in [0, 1].
        fit: where the squared distances are measured: in the "frame", as in dlib; or in the "crop", as in the training
            crops of ArcFace and facexlib's networks, which show a little more around the face.
    """
    turn, middle, centre = _similarity(landmarks, template, fit)
    grid = turn[:, None, None] * (_cells(size_px, images.device) - centre) + middle[:, None, None]  # b s s
    return _sample(images, grid, padding_mode="border")


def place_back(
    crops: Float[Tensor, "b c k k"],
    landmarks: Float[Tensor, "b 5 2"],
    template: Sequence[tuple[float, float]],
    size_px: int,
    fit: Fit = "frame",
) -> Float[Tensor, "b c {size_px} {size_px}"]:
    """Aligned crops, put back where `align_faces` cut them out; 0 around them."""
    turn, middle, centre = _similarity(landmarks, template, fit)
    grid = (_cells(size_px, crops.device) - middle[:, None, None]) / turn[:, None, None] + centre  # b s s
    return _sample(crops, grid, padding_mode="zeros")


def _similarity(
    landmarks: Float[Tensor, "b 5 2"], template: Sequence[tuple[float, float]], fit: Fit
) -> tuple[Complex[Tensor, " b"], Complex[Tensor, " b"], Complex[Tensor, ""]]:
    """Turn, middle and centre of the map w -> turn (w - centre) + middle from the template to the landmarks."""
    points = torch.view_as_complex(torch.tensor(template, device=landmarks.device))  # 5
    target = torch.view_as_complex(landmarks.float().contiguous())  # b 5
    centre, middle = points.mean(), target.mean(dim=1)
    w, z = points - centre, target - middle[:, None]
    both = (w.conj() * z).sum(dim=1)  # b
    turn = both / w.abs().square().sum() if fit == "frame" else z.abs().square().sum(dim=1) / both.conj()
    return turn, middle, centre


def _cells(size_px: int, device: torch.device) -> Complex[Tensor, "s s"]:
    """Centres of the pixels of a square frame."""
    steps = (torch.arange(size_px, device=device) + 0.5) / size_px
    return torch.complex(*torch.meshgrid(steps, steps, indexing="xy"))


def _sample(
    images: Float[Tensor, "b c h w"], grid: Complex[Tensor, "b s s"], padding_mode: str
) -> Float[Tensor, "b c s s"]:
    places = torch.view_as_real(grid) * 2 - 1
    return functional.grid_sample(images.float(), places, padding_mode=padding_mode, align_corners=False)
