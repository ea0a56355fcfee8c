"""The background behind the person."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.world.attributes import code
from mcpkg.world.render.frame import Frame
from mcpkg.world.shapes import cover


def background(frame: Frame) -> Float[Tensor, "b 3 h w"]:
    """Return the background as RGB."""
    base = frame.background_colour
    other = torch.where(base.mean(1, keepdim=True) > 0.72, base * 0.80, base + 0.45 * (1 - base))
    x, y = frame.x, frame.y
    shift = 0.25 * frame.nuisance.gaze[:, None, None]  # so that patterns do not always start at the same place
    soft = 3.0 / frame.size
    amount = torch.zeros(len(frame.people), frame.size, frame.size, device=base.device)
    for value in ("gradient", "striped", "dotted", "checkered", "bokeh"):
        rows = frame.rows("background", value)
        if not len(rows):
            continue
        s = shift[rows]
        if value == "gradient":
            amount[rows] = ((y + 1) / 2 * 1.25 - 0.1).clamp(0, 1).expand(len(rows), -1, -1)
        elif value == "striped":
            amount[rows] = cover(torch.sin((x + s) * 4.5 * math.pi) * 0.07, soft)
        elif value == "dotted":
            px, py = torch.remainder(x + s, 0.36) - 0.18, torch.remainder(y + s, 0.36) - 0.18
            amount[rows] = cover((px.square() + py.square()).sqrt() - 0.095, soft)
        elif value == "checkered":
            amount[rows] = cover(torch.sin((x + s) * 2.8 * math.pi) * torch.sin((y + s) * 2.8 * math.pi) * 0.1, soft)
        else:
            spots = ((-0.8, -0.75, 0.22), (0.75, -0.6, 0.3), (-0.65, -0.05, 0.16), (0.85, 0.15, 0.2), (0.1, -0.95, 0.2),
                     (-0.95, 0.5, 0.25), (0.45, -0.98, 0.14), (-0.4, -0.9, 0.15))  # fmt: skip
            for i, (sx, sy, r) in enumerate(spots):
                ring = (x - sx - s * (1 if i % 2 else -1)).square() + (y - sy).square()
                amount[rows] = torch.maximum(amount[rows], cover(ring.sqrt() - r, 4 * soft) * (0.55 + 0.06 * i))
    rgb = torch.lerp(base, other, amount[:, None])
    dim = torch.where(frame.looks.background == code("background", "bokeh"), 0.62, 1.0)[:, None, None, None]
    return rgb * torch.lerp(dim, torch.ones_like(dim), amount[:, None])
