"""Render portraits: head and shoulders, from signed-distance shapes, a whole batch at once.

The frame is [-1, 1] x [-1, 1], y down. The head has its own coordinates (u, v): shifted, scaled and rolled, the face's
centre at (0, 0), its half-width about 0.36. Everything is painted back to front on a `Canvas`: this module sets the
order, the other modules of the package paint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.world.attributes import PARTS, Looks, Nuisance, People
from mcpkg.world.render.accessories import paint_accessory
from mcpkg.world.render.backdrop import background
from mcpkg.world.render.frame import Frame
from mcpkg.world.render.garments import paint_body, paint_veil_behind, paint_veil_in_front
from mcpkg.world.render.hair import paint_hair_behind, paint_hair_in_front
from mcpkg.world.render.head import (
    paint_brows,
    paint_ears,
    paint_eyes,
    paint_face,
    paint_mouth,
    paint_nose,
    paint_robot_head,
)
from mcpkg.world.render.treatment import develop
from mcpkg.world.shapes import Canvas

__all__ = ["Renders", "render_portraits"]

CHUNK = 32  # portraits drawn at once: larger batches do not fit into the processor's cache


@dataclass(frozen=True)
class Renders:
    """A batch of portraits with their ground truth."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    parts: Float[Tensor, "b p h w"]
    """Fraction of each pixel that belongs to each of `PARTS`; sums to 1."""
    landmarks: Float[Tensor, "b 5 2"]
    """Left eye, right eye, nose tip, left and right mouth corner (the viewer's left), x and y in [0, 1]."""


def render_portraits(people: People, looks: Looks, nuisance: Nuisance, size: int = 128) -> Renders:
    """Draw one portrait for each row.

    Args:
        size: side of the images in pixels.

    Raises:
        ValueError: the three batches differ in length.
    """
    if not len(people) == len(looks) == len(nuisance):
        raise ValueError(
            f"render: {len(people)} people, {len(looks)} looks, {len(nuisance)} nuisance rows; give as many of each"
        )
    chunks = [
        _draw(Frame(people[rows], looks[rows], nuisance[rows], size))
        for rows in (slice(i, i + CHUNK) for i in range(0, len(people), CHUNK))
    ]
    return Renders(*(torch.cat([getattr(c, f) for c in chunks]) for f in ("image", "parts", "landmarks")))


def _draw(frame: Frame) -> Renders:
    """Paint everything back to front."""
    frame.canvas = Canvas(background(frame), len(PARTS))
    paint_hair_behind(frame)
    paint_veil_behind(frame)
    with frame.window(top=0.05):
        paint_body(frame)
    paint_ears(frame)
    with frame.window(top=-0.76, bottom=0.60, side=0.70):
        paint_face(frame)
        paint_eyes(frame)
        paint_brows(frame)
        paint_nose(frame)
        paint_mouth(frame)
    paint_hair_in_front(frame)
    paint_accessory(frame)
    if frame.people.robot.any():
        paint_robot_head(frame, frame.people.robot.nonzero()[:, 0])
    paint_veil_in_front(frame)
    return Renders(develop(frame, frame.canvas.rgb), frame.canvas.parts, _landmarks(frame))


def _landmarks(frame: Frame) -> Float[Tensor, "b 5 2"]:
    yaw = 0.075 * frame.n["yaw"]
    zero = torch.zeros_like(yaw)
    mouth_x = yaw + 0.012 * frame.n["yaw"]
    points = [
        (yaw - frame.eye_x, frame.eye_y), (yaw + frame.eye_x, frame.eye_y),
        (yaw + 0.035 * frame.n["yaw"], frame.nose_y),
        (mouth_x - frame.mouth_x, frame.mouth_y + zero), (mouth_x + frame.mouth_x, frame.mouth_y + zero),
    ]  # fmt: skip
    uv = torch.stack([torch.cat([u, v], dim=2)[:, 0] for u, v in points], dim=1)  # b 5 2
    cos, sin = frame.roll.cos()[:, 0], frame.roll.sin()[:, 0]
    x = frame.cx[:, 0] + frame.scale[:, 0] * (uv[..., 0] * cos - uv[..., 1] * sin)
    y = frame.cy[:, 0] + frame.scale[:, 0] * (uv[..., 1] * cos + uv[..., 0] * sin)
    return torch.stack([x, y], dim=2) / 2 + 0.5
