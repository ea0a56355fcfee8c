"""Upright faces of one size, cut out by five landmarks: B in Eq. 7."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def align_faces(
    images: Float[Tensor, "b 3 h w"],
    landmarks: Float[Tensor, "b 5 2"],
    template: Sequence[tuple[float, float]],
    size_px: int,
) -> Float[Tensor, "b 3 {size_px} {size_px}"]:
    """Faces turned, moved and scaled by the similarity that best maps the template onto the landmarks.

    With points as complex numbers the least-squares similarity is z -> a z + b, a = sum(conj(w) z) / sum |w|^2
    for centred w and z. Differentiable in images and landmarks.

    Args:
        images: square; outside of one, its edge is repeated.
        landmarks: x, y in [0, 1] of the frame.
        template: where the five landmarks of an average face lie in a crop, x, y in [0, 1].
    """
    points = torch.tensor(template, device=images.device)
    target = torch.view_as_complex(landmarks.float().contiguous())                                   # b 5
    centre = points.mean(dim=0)
    source = torch.view_as_complex(points - centre)                                                  # 5
    middle = target.mean(dim=1)
    turn = (source.conj() * (target - middle[:, None])).sum(dim=1) / source.abs().square().sum()

    steps = (torch.arange(size_px, device=images.device) + 0.5) / size_px
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    cells = torch.view_as_complex(torch.stack([x, y], dim=-1) - centre)                              # s s
    grid = torch.view_as_real(turn[:, None, None] * cells + middle[:, None, None])                   # b s s 2
    return functional.grid_sample(images.float(), grid * 2 - 1, padding_mode="border", align_corners=False)
