"""Hair: the layer behind the head and the layer in front of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.world.attributes import HAIR
from mcpkg.world.render.frame import Frame
from mcpkg.world.shapes import box, cover, ellipse


def paint_hair_behind(frame: Frame) -> None:
    dark = frame.hair_colour * 0.72
    for value in ("bob", "long", "curly", "bun"):
        rows = frame.rows("hair", value)
        if not len(rows):
            continue
        u, v, w, h, px = frame.at(rows, "u", "v", "width", "length", "pixel")
        if value == "bob":
            shape = torch.minimum(ellipse(u, v, 0, -0.12, w * 1.26, h * 1.02), box(u, v, 0, 0.12, w * 1.24, 0.28, 0.12))
        elif value == "long":
            shape = torch.minimum(ellipse(u, v, 0, -0.12, w * 1.24, h * 1.05), box(u, v, 0, 0.35, w * 1.30, 0.55, 0.16))
        elif value == "curly":
            angle = torch.atan2(u, -v - 0.1)
            shape = ellipse(u, v, 0, -0.14, w * 1.52, h * 1.16) - 0.022 * torch.cos(angle * 15)
        else:
            shape = ellipse(u, v, 0, -h * 1.22, 0.15, 0.135)
        colour = frame.hair_colour if value == "bun" else dark
        frame.canvas.paint(cover(shape, px), _strands(frame, rows, colour), HAIR, rows)


def paint_hair_in_front(frame: Frame) -> None:
    for value in ("short", "bob", "long", "curly", "bun", "spiky"):
        rows = frame.rows("hair", value)
        if not len(rows):
            continue
        u, v, w, h, px = frame.at(rows, "u", "v", "width", "length", "pixel")
        au = u.abs()
        t = au / w
        if value == "short":
            top = ellipse(u, v, 0, -0.07, w * 1.10, h * 1.04)
            line = -h * 0.60 + 0.06 * torch.sin(u * 7 + 0.6) + 0.62 * (t - 0.62).clamp(min=0) * h
            lower = v + 0.02
        elif value == "spiky":
            zigzag = (torch.remainder(u * 5.2, 1.0) - 0.5).abs() * 2
            top = ellipse(u, v, 0, -0.09, w * 1.10, h * 1.10) - 0.085 * zigzag * (v < -0.12)
            line = -h * 0.58 + 0.05 * zigzag + 0.60 * (t - 0.62).clamp(min=0) * h
            lower = v + 0.04
        elif value == "curly":
            top = ellipse(u, v, 0, -0.10, w * 1.22, h * 1.10)
            line = -h * 0.56 + 0.028 * torch.cos(u * 34) + 0.85 * (t - 0.66).clamp(min=0) * h
            lower = v - 0.02
        elif value == "bun":
            top = ellipse(u, v, 0, -0.06, w * 1.06, h * 1.02)
            line = -h * 0.66 + 0.30 * t.square() * h
            lower = v + 0.06
        elif value == "bob":  # a straight fringe and two sides that end at the jaw
            top = torch.minimum(
                ellipse(u, v, 0, -0.09, w * 1.18, h * 1.06), box(au, v, w * 1.04, 0.08, 0.075, 0.30, 0.06)
            )
            line = -h * 0.44 + 2.9 * (t - 0.80).clamp(min=0) * h
            lower = v - 0.36
        else:  # long: parted, falling over the shoulders
            top = torch.minimum(
                ellipse(u, v, 0, -0.09, w * 1.17, h * 1.07), box(au, v, w * 1.10, 0.36, 0.085, 0.56, 0.07)
            )
            line = -h * 0.80 + 0.95 * (au + 0.04 * torch.sin(v * 9)) * 1.05 + 2.6 * (t - 0.80).clamp(min=0) * h
            lower = v - 0.90
        shape = torch.maximum(torch.maximum(top, (v - line) * 0.75), lower)
        frame.canvas.paint(cover(shape, px), _strands(frame, rows, frame.hair_colour), HAIR, rows)
        hairline = cover((v - line).abs() - 0.012, 2 * px) * cover(top, px) * cover(lower, px)
        frame.canvas.paint(hairline * 0.30, frame.hair_colour[rows] * 0.45, None, rows)


def _strands(frame: Frame, rows: Tensor, colour: Tensor) -> Float[Tensor, "r 3 h w"]:
    """Return the hair colour with a little texture and a highlight."""
    u, v = frame.at(rows, "u", "v")
    texture = 1 + 0.07 * torch.sin(u * 42 + 5 * v) + 0.16 * torch.exp(-((v + 0.36 + 0.5 * u.square()) / 0.09).square())
    return colour[rows] * texture[:, None] + 0.05 * (texture[:, None] - 1).clamp(min=0)
