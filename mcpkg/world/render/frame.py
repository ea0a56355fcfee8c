"""What all painting functions share: coordinates, colours and lengths of one batch, and the canvas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.world.attributes import IDENTITY, NUISANCE, Looks, Nuisance, People, code
from mcpkg.world.shapes import Canvas

_HEX = {
    "skin": "eedccf e9d2bf e6caab e2c39c d0a67c b08259 93664a 785140 614338 4f3a36",  # the ten Monk tones, as lit skin
    "eyes": "3b2417 6b4423 8a7a3a 4f8a4c 3f7fb5 8b9aa6",
    "hair": "1d1a1f 5b3820 e0bd6e b5532a b9bcc4 2f62d9",
    "garment": "24242c f2f0ec c8322f 2f56b0 2f8a4e e8c02e 7a3fa0 ee86b0",
    "background": "f0efec 8f959e 4d86c6 57a773 e8a5bd e2893c",
    "metal": "c9d1da 8fb0c9 b8a27a 9a9fb0 7fb0a0 c58f83",
}
_PALETTE = {
    name: torch.tensor([[int(h[i : i + 2], 16) / 255 for i in (0, 2, 4)] for h in row.split()])
    for name, row in _HEX.items()
}


def column(values: Tensor) -> Float[Tensor, "b 1 1"]:
    """Reshape one number per portrait so that it broadcasts over the grids."""
    return values[:, None, None]


def _blend(palette: Tensor, position: Tensor) -> Float[Tensor, "b 3 1 1"]:
    """Return the colour at `position` in [-1, 1] along the palette, interpolated linearly."""
    at = (position + 1) / 2 * (len(palette) - 1)
    low = at.floor().clamp(0, len(palette) - 2).long()
    return torch.lerp(palette[low], palette[low + 1], (at - low)[:, None])[:, :, None, None]


class Frame:
    """Coordinates, colours and lengths of one batch of portraits, and the canvas to paint them on."""

    canvas: Canvas
    face: Float[Tensor, "b h w"]
    """Opacity of the face; set once the face is painted."""

    def __init__(self, people: People, looks: Looks, nuisance: Nuisance, size: int):
        self.device = device = people.shape.device
        self.people, self.looks, self.nuisance, self.size = people, looks, nuisance, size
        palette = {name: p.to(device) for name, p in _PALETTE.items()}
        p = {name: column(getattr(people, name)) for name in IDENTITY}
        n = {name: column(getattr(nuisance, name)) for name in NUISANCE}
        self.p, self.n = p, n

        axis = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.x, self.y = x[None], y[None]
        self.cx, self.cy = 0.15 * n["x"], -0.06 + 0.06 * n["y"]
        self.scale = 1.06 + 0.10 * n["scale"]
        self.roll = 0.16 * n["roll"]
        dx, dy = (self.x - self.cx) / self.scale, (self.y - self.cy) / self.scale
        cos, sin = self.roll.cos(), self.roll.sin()
        self.u, self.v = dx * cos + dy * sin, dy * cos - dx * sin
        # the body has the head's position and size and leans a third as much
        lean = self.roll / 3
        self.bu, self.bv = dx * lean.cos() + dy * lean.sin(), dy * lean.cos() - dx * lean.sin()
        self.pixel = 2.2 / size / self.scale

        self.width = 0.365 * (1 + 0.11 * p["face_width"])
        self.length = 0.465 * (1 + 0.09 * p["face_length"])
        self.skin = _blend(palette["skin"], people.skin)
        self.eye_colour = _blend(palette["eyes"], people.eye_colour)
        self.hair_colour = palette["hair"][looks.hair_colour][:, :, None, None]
        self.garment_colour = palette["garment"][looks.garment_colour][:, :, None, None]
        self.background_colour = palette["background"][looks.background_colour][:, :, None, None]
        self.metal = palette["metal"][((people.skin + 1) * 2.99).long()][:, :, None, None]
        self.skin = torch.where(people.robot[:, None, None, None], 0.8 * self.metal, self.skin)
        self.feminine = column(people.feminine.float())
        self.light = torch.stack([0.6 * nuisance.light_x, -0.25 + 0.25 * nuisance.light_y], 1)

        # turning the head moves the features sideways, the nose most
        self.fu = self.u - 0.075 * n["yaw"]
        self.au = self.fu.abs()  # both eyes, brows and cheeks at once
        self.eye_x = 0.158 * (1 + 0.16 * p["eye_spacing"])
        self.eye_y = -0.055 + 0.030 * p["eye_height"]
        self.nose_y = 0.115 + 0.035 * p["nose_length"]
        self.mouth_y = 0.255 + 0.022 * p["mouth_height"] + 0.02 * p["nose_length"]
        self.mouth_x = 0.118 * (1 + 0.22 * p["mouth_width"]) * (1 + 0.10 * n["smile"])

    @contextmanager
    def window(self, top: float, bottom: float = 1.0, side: float = 1.0) -> Iterator[None]:
        """Restrict painting to a part of the frame, where nothing is painted outside it: a third of the work."""

        def pixels(low: float, high: float) -> slice:
            return slice(int((low + 1) / 2 * self.size), math.ceil((high + 1) / 2 * self.size))

        ys, xs = pixels(top, bottom), pixels(-side, side)
        grids = ("u", "v", "bu", "bv", "fu", "au")
        whole, canvas = {name: getattr(self, name) for name in grids}, self.canvas
        self.__dict__.update({name: grid[:, ys, xs].contiguous() for name, grid in whole.items()})
        self.canvas = canvas.crop(ys, xs)
        try:
            yield
        finally:
            self.__dict__.update(whole)
            self.canvas = canvas

    def rows(self, attribute: str, *values: str) -> Tensor:
        """Return the indices of portraits whose attribute has one of the values."""
        column = getattr(self.looks, attribute)
        hit = torch.zeros_like(column, dtype=torch.bool)
        for value in values:
            hit |= column == code(attribute, value)
        return hit.nonzero()[:, 0]

    def at(self, rows: Tensor, *names: str) -> tuple[Tensor, ...]:
        """Return these grids and lengths, of `rows` only."""
        return tuple(getattr(self, name)[rows] for name in names)

    def skin_shade(self) -> Float[Tensor, "b 3 h w"]:
        """Return the skin colour lit from `light`: brighter towards it, darker at the edge of the face."""
        nx, ny = self.u / self.width, self.v / self.length
        lx, ly = self.light[:, 0, None, None], self.light[:, 1, None, None]
        shade = 1.02 + 0.20 * (nx * lx + ny * ly) - 0.10 * (nx.square() + ny.square())
        return self.skin * shade.clamp(0.5, 1.25)[:, None]

    def rgb(self, r: float, g: float, b: float) -> Float[Tensor, "1 3 1 1"]:
        return torch.tensor([r, g, b], device=self.device)[None, :, None, None]
