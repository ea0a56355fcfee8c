"""Signed-distance shapes on a batch of coordinate grids, and the canvas to paint them on.

Distances are negative inside, in units of the grid; parameters are numbers or tensors that broadcast to (b, h, w).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Grid = Float[Tensor, "b h w"]


def ellipse(u: Grid, v: Grid, cx, cy, rx, ry) -> Grid:
    """Return the approximate distance to an ellipse (exact on its outline)."""
    radius = ((u - cx) / rx).square().add_(((v - cy) / ry).square()).sqrt_()
    return (radius - 1) * (rx if not torch.is_tensor(rx) and not torch.is_tensor(ry) and rx < ry else ry)


def box(u: Grid, v: Grid, cx, cy, hx, hy, corner=0.0) -> Grid:
    """Return the distance to a rectangle of half-sizes hx, hy with rounded corners."""
    du, dv = (u - cx).abs_() - (hx - corner), (v - cy).abs_() - (hy - corner)
    outside = (du.clamp(min=0).square() + dv.clamp(min=0).square()).sqrt_()
    return outside + torch.maximum(du, dv).clamp_(max=0) - corner


def capsule(u: Grid, v: Grid, ax, ay, bx, by, radius) -> Grid:
    """Return the distance to a segment from (ax, ay) to (bx, by) with round ends."""
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy
    along = (((u - ax) * dx + (v - ay) * dy) / length2).clamp_(0, 1)
    return ((u - ax - along * dx).square() + (v - ay - along * dy).square()).sqrt_() - radius


def cover(distance: Grid, pixel) -> Grid:
    """Return the opacity in [0, 1] of a shape whose edge is `pixel` wide."""
    return (0.5 - distance / pixel).clamp_(0, 1)


class Canvas:
    """RGB and part masks, painted back to front.

    Attributes:
        rgb: (b, 3, h, w) in [0, 1].
        parts: (b, p, h, w), sums to 1 over p.
    """

    def __init__(self, rgb: Float[Tensor, "b 3 h w"], n_parts: int):
        self.rgb = rgb
        self.parts = torch.zeros(len(rgb), n_parts, *rgb.shape[2:], device=rgb.device)
        self.parts[:, 0] = 1

    def crop(self, ys: slice, xs: slice) -> Canvas:
        """Return a view of a part of this canvas; painting on it also changes this canvas."""
        window = object.__new__(Canvas)
        window.rgb, window.parts = self.rgb[:, :, ys, xs], self.parts[:, :, ys, xs]
        return window

    def paint(self, alpha: Grid, colour, part: int | None = None, rows: Tensor | None = None) -> None:
        """Blend `colour` (broadcastable to (b, 3, h, w)) over the canvas, in place.

        Args:
            alpha: opacity in [0, 1].
            part: index of the part that the painted pixels now belong to; None leaves the part masks unchanged.
            rows: indices into the batch to paint; None paints all.
        """
        alpha = alpha[:, None]
        if rows is None:
            self.rgb.lerp_(colour, alpha)
        else:
            self.rgb[rows] = self.rgb[rows].lerp_(colour, alpha)
        if part is None:
            return
        mask = self.parts if rows is None else self.parts[rows]
        mask.mul_(1 - alpha)
        mask[:, part] += alpha[:, 0]
        if rows is not None:
            self.parts[rows] = mask
