"""Draw portraits: head and shoulders, from signed-distance shapes, over a whole batch at once.

The frame is [-1, 1] x [-1, 1], y down. The head has its own coordinates (u, v): shifted, scaled and rolled, the face's
centre at (0, 0), its half-width about 0.36. Everything is painted back to front on a `Canvas`.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.mini.shapes import Canvas, box, capsule, cover, ellipse
from mcpkg.mini.world import PARTS, Looks, Nuisance, People, code

BACKGROUND, FACE, HAIR, EARS, NECK, GARMENT, ACCESSORY = range(len(PARTS))
CHUNK = 32  # portraits drawn at once: larger batches fall out of the processor's cache

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


@dataclass(frozen=True)
class Renders:
    """A batch of portraits with their ground truth."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    parts: Float[Tensor, "b p h w"]
    """Share of each pixel that belongs to each of `PARTS`; sums to 1."""
    landmarks: Float[Tensor, "b 5 2"]
    """Left eye, right eye, nose tip, left and right mouth corner (the viewer's left), x and y in [0, 1]."""


def render(people: People, looks: Looks, nuisance: Nuisance, size: int = 128) -> Renders:
    """Draw one portrait for each row.

    Raises:
        ValueError: if the three records differ in length.
    """
    if not len(people) == len(looks) == len(nuisance):
        raise ValueError(f"render: {len(people)} people, {len(looks)} looks, {len(nuisance)} shots; give as many of each")
    chunks = [
        _Portrait(people[rows], looks[rows], nuisance[rows], size).draw()
        for rows in (slice(i, i + CHUNK) for i in range(0, len(people), CHUNK))
    ]
    return Renders(*(torch.cat([getattr(c, f) for c in chunks]) for f in ("image", "parts", "landmarks")))


def _col(values: Tensor) -> Tensor:
    return values[:, None, None]


def _blend(palette: Tensor, position: Tensor) -> Float[Tensor, "b 3 1 1"]:
    """Colour at `position` in [-1, 1] along the palette, linearly."""
    at = (position + 1) / 2 * (len(palette) - 1)
    low = at.floor().clamp(0, len(palette) - 2).long()
    return torch.lerp(palette[low], palette[low + 1], (at - low)[:, None])[:, :, None, None]


class _Portrait:
    """One batch on its way to the canvas; the methods below run in the order in which they stand."""

    def __init__(self, people: People, looks: Looks, nuisance: Nuisance, size: int):
        device = people.shape.device
        self.people, self.looks, self.nuisance, self.size = people, looks, nuisance, size
        palette = {name: p.to(device) for name, p in _PALETTE.items()}
        p = {name: _col(getattr(people, name)) for name in _names(people)}
        n = {name: _col(getattr(nuisance, name)) for name in _names(nuisance)}
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
        # the body shares the head's place and size and leans a third as much
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
        self.feminine = _col(people.feminine.float())
        self.light = torch.stack([0.6 * nuisance.light_x, -0.25 + 0.25 * nuisance.light_y], 1)

        # turning the head moves the features sideways, the nose most
        self.fu = self.u - 0.075 * n["yaw"]
        self.au = self.fu.abs()  # both eyes, brows and cheeks at once
        self.eye_x = 0.158 * (1 + 0.16 * p["eye_spacing"])
        self.eye_y = -0.055 + 0.030 * p["eye_height"]
        self.nose_y = 0.115 + 0.035 * p["nose_length"]
        self.mouth_y = 0.255 + 0.022 * p["mouth_height"] + 0.02 * p["nose_length"]
        self.mouth_x = 0.118 * (1 + 0.22 * p["mouth_width"]) * (1 + 0.10 * n["smile"])

    def draw(self) -> Renders:
        self.canvas = Canvas(self._background(), len(PARTS))
        robot = self.people.robot
        self._hair_behind()
        self._veil_behind()
        with self._window(top=0.05):
            self._body()
        self._ears()
        with self._window(top=-0.76, bottom=0.60, side=0.70):
            self._face()
            self._eyes()
            self._brows()
            self._nose()
            self._mouth()
        self._hair_in_front()
        self._accessory()
        if robot.any():
            self._robot(robot.nonzero()[:, 0])
        self._veil_in_front()
        return Renders(self._develop(self.canvas.rgb), self.canvas.parts, self._landmarks())

    # -- helpers -------------------------------------------------------------------------------------------------

    @contextmanager
    def _window(self, top: float, bottom: float = 1.0, side: float = 1.0):
        """Paint within a part of the frame only, where nothing can fall outside it: a third of the work."""
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

    def _rows(self, attribute: str, *values: str) -> Tensor:
        """Indices of the people (not robots) whose attribute has one of the values."""
        column = getattr(self.looks, attribute)
        hit = torch.zeros_like(column, dtype=torch.bool)
        for value in values:
            hit |= column == code(attribute, value)
        return hit.nonzero()[:, 0]

    def _at(self, rows: Tensor, *names: str) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name)[rows] for name in names)

    def _skin_shade(self) -> Float[Tensor, "b 3 h w"]:
        """Skin lit from `light`: brighter towards it, darker at the rim."""
        nx, ny = self.u / self.width, self.v / self.length
        lx, ly = self.light[:, 0, None, None], self.light[:, 1, None, None]
        shade = 1.02 + 0.20 * (nx * lx + ny * ly) - 0.10 * (nx.square() + ny.square())
        return self.skin * shade.clamp(0.5, 1.25)[:, None]

    # -- back to front -------------------------------------------------------------------------------------------

    def _background(self) -> Float[Tensor, "b 3 h w"]:
        base = self.background_colour
        other = torch.where(base.mean(1, keepdim=True) > 0.72, base * 0.80, base + 0.45 * (1 - base))
        x, y = self.x, self.y
        shift = 0.25 * self.nuisance.gaze[:, None, None]  # patterns do not always start at the same place
        soft = 3.0 / self.size
        amount = torch.zeros(len(self.people), self.size, self.size, device=base.device)
        for value in ("gradient", "striped", "dotted", "checkered", "bokeh"):
            rows = self._rows("background", value)
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
        dim = torch.where(self.looks.background == code("background", "bokeh"), 0.62, 1.0)[:, None, None, None]
        return rgb * torch.lerp(dim, torch.ones_like(dim), amount[:, None])

    def _hair_behind(self) -> None:
        dark = self.hair_colour * 0.72
        for value in ("bob", "long", "curly", "bun"):
            rows = self._rows("hair", value)
            if not len(rows):
                continue
            u, v, w, h, px = self._at(rows, "u", "v", "width", "length", "pixel")
            if value == "bob":
                shape = torch.minimum(ellipse(u, v, 0, -0.12, w * 1.26, h * 1.02), box(u, v, 0, 0.12, w * 1.24, 0.28, 0.12))
            elif value == "long":
                shape = torch.minimum(ellipse(u, v, 0, -0.12, w * 1.24, h * 1.05), box(u, v, 0, 0.35, w * 1.30, 0.55, 0.16))
            elif value == "curly":
                angle = torch.atan2(u, -v - 0.1)
                shape = ellipse(u, v, 0, -0.14, w * 1.52, h * 1.16) - 0.022 * torch.cos(angle * 15)
            else:
                shape = ellipse(u, v, 0, -h * 1.22, 0.15, 0.135)
            self.canvas.paint(cover(shape, px), self._strands(rows, dark if value != "bun" else self.hair_colour), HAIR, rows)

    def _strands(self, rows: Tensor, colour: Tensor) -> Float[Tensor, "r 3 h w"]:
        """Hair colour with a little texture and a shine."""
        u, v = self._at(rows, "u", "v")
        texture = 1 + 0.07 * torch.sin(u * 42 + 5 * v) + 0.16 * torch.exp(-((v + 0.36 + 0.5 * u.square()) / 0.09).square())
        return colour[rows] * texture[:, None] + 0.05 * (texture[:, None] - 1).clamp(min=0)

    def _veil_behind(self) -> None:
        rows = self._rows("garment", "wedding dress")
        if len(rows):
            ru, rv, rp = self._at(rows, "bu", "bv", "pixel")
            veil = torch.minimum(ellipse(ru, rv, 0, -0.15, 0.60, 0.60), box(ru, rv, 0, 0.55, 0.66, 0.65, 0.2))
            self.canvas.paint(cover(veil, 3 * rp) * 0.62, _rgb(0.97, 0.97, 1.0), GARMENT, rows)

    def _body(self) -> None:
        """Neck with the chin's shadow, bare shoulders, and the garment over them."""
        u, v, px = self.bu, self.bv, self.pixel
        neck = box(u, v, 0, 0.50, 0.155 + 0.02 * self.p["jaw_width"], 0.26, 0.03)
        shadow = 1 - 0.28 * cover(ellipse(self.u, self.v, 0, 0.20, self.width, 0.36), 0.10)
        skin = self.skin * (0.93 * shadow)[:, None]
        self.canvas.paint(cover(neck, px), skin, NECK)
        shoulders = torch.minimum(box(u, v, 0, 1.22, 0.70, 0.60, 0.28), ellipse(u, v, 0, 0.80, 0.42, 0.22))
        self.canvas.paint(cover(shoulders, px), self.skin * (0.96 - 0.10 * (u / 0.7).square())[:, None], NECK)
        fold = 1 - 0.20 * (u / 0.75).square() + 0.10 * u * self.light[:, 0, None, None]
        cloth = self.garment_colour * fold[:, None] + 0.015
        outline = cover(shoulders, px)
        for value, wear in {
            "suit": self._suit, "shirt": self._shirt, "hoodie": self._hoodie, "sweater": self._sweater,
            "kimono": self._kimono, "spacesuit": self._spacesuit, "wedding dress": self._dress,
        }.items():  # fmt: skip
            rows = self._rows("garment", value)
            if len(rows):
                wear(rows, u[rows], v[rows], px[rows], outline[rows], cloth[rows])

    def _suit(self, rows, u, v, px, outline, cloth) -> None:
        au = u.abs()
        self.canvas.paint(outline, cloth, GARMENT, rows)
        opening = (au - (0.92 - v) * 0.42) * 0.8
        opening = torch.maximum(opening, 0.56 - v - 0.1 * au)
        self.canvas.paint(cover(opening, px) * outline, _rgb(0.96, 0.96, 0.97), GARMENT, rows)
        tie = torch.maximum(torch.maximum(au - 0.028 - 0.05 * (v - 0.62), 0.62 - v), v - 0.98)
        self.canvas.paint(cover(tie, px), cloth.mean(dim=(2, 3), keepdim=True) * 0.45 + _rgb(0.16, 0.03, 0.05), GARMENT, rows)
        lapel = ((au - (0.94 - v) * 0.42).abs() - 0.010).maximum(0.55 - v)
        self.canvas.paint(cover(lapel, px) * outline, cloth * 0.6, GARMENT, rows)

    def _shirt(self, rows, u, v, px, outline, cloth) -> None:
        au = u.abs()
        neckline = torch.maximum(au - (0.74 - v) * 0.62, 0.45 - v)
        self.canvas.paint(outline * (1 - cover(neckline, px)), cloth, GARMENT, rows)
        collar = capsule(au, v, 0.165, 0.555, 0.065, 0.70, 0.042)
        self.canvas.paint(cover(collar, px), cloth * 1.12 + 0.05, GARMENT, rows)
        self.canvas.paint(cover((collar.abs() - 0.004), px) * 0.7, cloth * 0.55, GARMENT, rows)
        self.canvas.paint(cover((u.abs() - 0.006).maximum(0.74 - v), px) * outline, cloth * 0.6, GARMENT, rows)
        for y in (0.80, 0.93):
            self.canvas.paint(cover(ellipse(u, v, 0.026, y, 0.014, 0.014), px), _rgb(0.95, 0.95, 0.92), GARMENT, rows)

    def _hoodie(self, rows, u, v, px, outline, cloth) -> None:
        hood = ellipse(u, v, 0, 0.60, 0.36, 0.20)
        inner = ellipse(u, v, 0, 0.535, 0.205, 0.135)
        shape = torch.maximum(cover(hood, px), outline) * (1 - cover(inner, px))
        self.canvas.paint(shape, cloth, GARMENT, rows)
        rim = ((hood.abs() - 0.012).maximum(0.56 - v))
        self.canvas.paint(cover(rim, 2 * px) * shape, cloth * 0.62, GARMENT, rows)
        string = capsule(u.abs(), v, 0.10, 0.68, 0.115, 0.90, 0.011)
        self.canvas.paint(cover(string, px), _rgb(0.95, 0.95, 0.93) - 0.55 * (cloth.mean((1, 2, 3), keepdim=True) > 0.6), GARMENT, rows)

    def _sweater(self, rows, u, v, px, outline, cloth) -> None:
        neckline = ellipse(u, v, 0, 0.50, 0.185, 0.135)
        knit = 1 + 0.09 * torch.sin(v * 58) * torch.sin(u * 40)
        self.canvas.paint(outline * (1 - cover(neckline, px)), cloth * knit[:, None], GARMENT, rows)
        self.canvas.paint(cover((neckline - 0.022).abs() - 0.024, px) * outline, cloth * 0.78, GARMENT, rows)
        band = torch.maximum((v - 0.86 - 0.025 * torch.sin(u * 26)).abs() - 0.032, outline * 0 - 1)
        self.canvas.paint(cover(band, px) * outline, cloth * 0.5 + 0.42, GARMENT, rows)

    def _kimono(self, rows, u, v, px, outline, cloth) -> None:
        neckline = torch.maximum(u.abs() - (0.82 - v) * 0.55, 0.40 - v)
        motif = cover((torch.remainder(u + 0.11, 0.30) - 0.15).square().add((torch.remainder(v, 0.30) - 0.15).square()).sqrt() - 0.045, px)
        cloth_motif = torch.lerp(cloth, 0.45 * cloth + 0.52, motif[:, None] * 0.8)
        self.canvas.paint(outline * (1 - cover(neckline, px)), cloth_motif, GARMENT, rows)
        under = capsule(u, v, 0.20, 0.44, -0.10, 0.99, 0.055)
        over = capsule(u, v, -0.20, 0.44, 0.14, 1.05, 0.055)
        for band in (under, over):
            self.canvas.paint(cover(band, px), 0.30 * cloth + 0.66, GARMENT, rows)
            self.canvas.paint(cover(band.abs() - 0.006, px), cloth * 0.5, GARMENT, rows)

    def _spacesuit(self, rows, u, v, px, outline, cloth) -> None:
        wide = torch.maximum(outline, cover(box(u, v, 0, 1.20, 0.80, 0.58, 0.30), px))
        self.canvas.paint(wide, cloth, GARMENT, rows)
        seam = (u.abs() - 0.40 - 0.1 * (v - 0.6)).abs() - 0.012
        self.canvas.paint(cover(seam, px) * wide, cloth * 0.6, GARMENT, rows)
        ring = ellipse(u, v, 0, 0.555, 0.285, 0.125)
        self.canvas.paint(cover(ring.abs() - 0.038, px), (0.62 + 0.30 * u / 0.3)[:, None] * _rgb(0.9, 0.95, 1.0), GARMENT, rows)
        panel = box(u, v, 0, 0.88, 0.15, 0.085, 0.02)
        self.canvas.paint(cover(panel, px), _rgb(0.80, 0.83, 0.87), GARMENT, rows)
        for x, colour in ((-0.085, (0.9, 0.2, 0.2)), (0.0, (0.2, 0.75, 0.35)), (0.085, (0.2, 0.45, 0.95))):
            self.canvas.paint(cover(ellipse(u, v, x, 0.875, 0.028, 0.028), px), _rgb(*colour), GARMENT, rows)

    def _dress(self, rows, u, v, px, outline, cloth) -> None:
        edge = 0.80 - 0.055 * torch.cos(u * 9.5) + 0.02 * torch.sin(u.abs() * 44)  # a heart-shaped lace neckline
        bodice = outline * cover(edge - v, px) * cover(u.abs() - 0.50, px)
        lace = 1 + 0.06 * torch.sin(u * 55) * torch.sin(v * 55)
        self.canvas.paint(bodice, cloth * lace[:, None], GARMENT, rows)
        self.canvas.paint(cover((v - edge - 0.018).abs() - 0.014, px) * bodice, cloth * 0.75 + 0.2, GARMENT, rows)

    def _ears(self) -> None:
        u = (self.u + 0.03 * self.n["yaw"]).abs()
        size = 1 + 0.32 * self.p["ear_size"]
        ear = ellipse(u, self.v, self.width * 0.99, -0.005, 0.062 * size, 0.092 * size)
        self.canvas.paint(cover(ear, self.pixel), self.skin * 0.93, EARS)
        inner = ellipse(u, self.v, self.width + 0.018 * size, -0.005, 0.030 * size, 0.055 * size)
        self.canvas.paint(cover(inner, 2 * self.pixel) * 0.5, self.skin * 0.70)

    def _face_distance(self) -> Tensor:
        """An ellipse whose lower half follows the jaw."""
        v = self.v / self.length
        low = v.clamp(min=0)
        taper = 1 + (0.16 * self.p["jaw_width"] - 0.06) * low * low
        x2, y2 = (self.u / (self.width * taper)).square(), v.square()
        roundish = (x2 + y2).sqrt()
        squarish = (x2 * x2 + y2 * y2).sqrt().sqrt()
        mix = 0.30 + 0.30 * self.p["jaw_squareness"]
        return (torch.lerp(roundish, squarish, mix * (low * 1.6).clamp(max=1)) - 1) * self.width

    def _face(self) -> None:
        skin = self._skin_shade()
        self.face = cover(self._face_distance(), self.pixel)
        self.canvas.paint(self.face, skin, FACE)
        blush = torch.exp(-(((self.au - 0.205) / 0.075).square() + ((self.v - 0.125) / 0.06).square())) * (0.20 + 0.14 * self.feminine)
        self.canvas.paint(blush * self.face, self.skin * _rgb(1.0, 0.68, 0.62))
        strength = (self.p["freckles"] - 0.1).clamp(min=0) * 0.8
        for x, y, r in ((0.10, 0.075, 0.011), (0.15, 0.11, 0.012), (0.20, 0.07, 0.011), (0.235, 0.115, 0.010), (0.06, 0.105, 0.010), (0.17, 0.045, 0.010)):
            dot = (self.au - x).square() + (self.v - y).square()
            self.canvas.paint(cover(dot.sqrt_() - r, 1.5 * self.pixel) * strength * self.face, self.skin * _rgb(0.62, 0.45, 0.36))
        # a mole sits on an arc from cheek over chin to cheek, or is absent
        angle, size = 0.5 * math.pi * self.p["mole_place"], self.p["mole_size"].clamp(min=0)
        mole = ellipse(self.fu, self.v, 0.24 * angle.sin(), 0.05 + 0.335 * angle.cos(), 0.010 + 0.012 * size, 0.010 + 0.012 * size)
        self.canvas.paint(cover(mole, self.pixel) * (size > 0) * self.face, self.skin * 0.28)
        beard = self.p["beard"].clamp(min=0)
        below = 0.145 + 0.55 * (0.30 - self.au).clamp(min=0) * (self.au < 0.30) - 0.10 * beard
        jaw = cover(below - self.v, 0.05) * self.face * (0.40 + 0.60 * beard).clamp(max=0.95) * (beard > 0.05)
        self.canvas.paint(jaw, 0.24 * self.skin + 0.02)

    def _eyes(self) -> None:
        px, u, v = self.pixel, self.au - self.eye_x, self.v - self.eye_y
        tilt = 0.22 * self.p["eye_tilt"]
        v = v + u * tilt
        rx = 0.078 * (1 + 0.20 * self.p["eye_size"])
        ry = 0.043 * (1 + 0.20 * self.p["eye_size"]) * (1 + 0.28 * self.p["eye_openness"]) * (1 - 0.10 * self.n["smile"])
        socket = torch.exp(-((u / (rx * 1.5)).square() + ((v + 0.01) / (ry * 2.2)).square())) * 0.22
        self.canvas.paint(socket * self.face, self.skin * 0.55)
        lash = ellipse(u, v + 0.012 + 0.004 * self.feminine, 0.004, 0, rx * (1.07 + 0.05 * self.feminine), ry * 1.05)
        self.canvas.paint(cover(lash, px), self.skin * 0.12 + 0.03)
        eye = cover(ellipse(u, v, 0, 0, rx, ry), px)
        self.canvas.paint(eye, _rgb(0.97, 0.97, 0.96))
        look = u - 0.020 * self.n["gaze"] * self.fu.sign()
        r = 0.040 * (1 + 0.14 * self.p["eye_size"])
        iris2 = (look.square() + (v * 0.97).square()).sqrt()
        self.canvas.paint(cover(iris2 - r, px) * eye, self.eye_colour)
        self.canvas.paint(cover((iris2 - r).abs() - 0.006, px) * eye * 0.6, self.eye_colour * 0.4)
        self.canvas.paint(cover(iris2 - r * 0.48, px) * eye, _rgb(0.04, 0.04, 0.05))
        glint = ((look * self.fu.sign() + 0.012).square() + (v + 0.014).square()).sqrt() - 0.011
        self.canvas.paint(cover(glint, px) * eye, _rgb(1.0, 1.0, 1.0))

    def _brows(self) -> None:
        y = self.eye_y - 0.105 - 0.024 * self.p["brow_height"]
        tilt = 0.017 * self.p["brow_tilt"]
        arch = self.v + 1.3 * (self.au - self.eye_x).square()
        thick = 0.0175 * (1 + 0.55 * self.p["brow_thickness"]) * (1.08 - 0.18 * self.feminine)
        brow = capsule(self.au, arch, self.eye_x - 0.075, y + tilt, self.eye_x + 0.080, y - tilt, thick)
        self.canvas.paint(cover(brow, self.pixel) * self.face, self.skin * 0.22 + 0.02)

    def _nose(self) -> None:
        u = self.fu - 0.035 * self.n["yaw"]
        wide = 1 + 0.34 * self.p["nose_width"]
        side = u * torch.where(self.light[:, 0, None, None] >= 0, -1.0, 1.0)
        ridge = torch.exp(-(((side - 0.030) / 0.022).square())) * cover((self.v - 0.5 * (self.nose_y - 0.03)).abs() - (0.5 * self.nose_y + 0.01), 0.10)
        self.canvas.paint(ridge * 0.30 * self.face, self.skin * 0.45)
        tip = torch.exp(-((u / (0.045 * wide)).square() + ((self.v - self.nose_y + 0.012) / 0.035).square()))
        self.canvas.paint(tip * 0.45, self.skin * 1.10 + 0.03)
        wing = torch.minimum(
            ellipse(u.abs(), self.v, 0.048 * wide, self.nose_y + 0.012, 0.020, 0.022),
            ellipse(u, self.v, 0, self.nose_y + 0.020, 0.034 * wide, 0.012),
        )
        self.canvas.paint(cover(wing, 2.5 * self.pixel) * 0.55, self.skin * 0.55)
        nostril = ellipse(u.abs(), self.v, 0.030 * wide, self.nose_y + 0.018, 0.014 * wide, 0.009)
        self.canvas.paint(cover(nostril, 1.3 * self.pixel) * 0.85, self.skin * 0.22)

    def _mouth(self) -> None:
        px, u = self.pixel, self.fu - 0.012 * self.n["yaw"]
        smile = self.n["smile"]
        along = u / self.mouth_x
        v = self.v - self.mouth_y + (0.030 * smile + 0.012) * (along.square() - 0.35)
        full = 0.030 * (1 + 0.42 * self.p["lip_fullness"])
        red = torch.lerp(_rgb(0.86, 0.62, 0.58), _rgb(0.86, 0.40, 0.42), self.feminine[:, None])
        lip = self.skin * red
        upper = ellipse(u, v, 0, -full * 0.25, self.mouth_x, full * (0.82 - 0.16 * torch.exp(-(along / 0.16).square())))
        lower = ellipse(u, v, 0, full * 0.38, self.mouth_x * 0.90, full * 0.95)
        self.canvas.paint(cover(torch.minimum(upper, lower), px), lip)
        shine = ellipse(u, v, 0, full * 0.62, self.mouth_x * 0.42, full * 0.22)
        self.canvas.paint(cover(shine, 3 * px) * 0.35, lip * 1.25 + 0.08)
        opened = (smile - 0.15).clamp(min=0)
        teeth = ellipse(u, v, 0, full * 0.10, self.mouth_x * 0.78, full * 0.75 * opened + 1e-3)
        self.canvas.paint(cover(teeth, px) * (opened > 0.02), _rgb(0.97, 0.96, 0.94))
        line = torch.maximum(v.abs() - 0.0065, u.abs() - self.mouth_x * 1.02)
        self.canvas.paint(cover(line, px) * (opened <= 0.02) + 0 * v, lip * 0.38)

    def _hair_in_front(self) -> None:
        for value in ("short", "bob", "long", "curly", "bun", "spiky"):
            rows = self._rows("hair", value)
            if not len(rows):
                continue
            u, v, w, h, px = self._at(rows, "u", "v", "width", "length", "pixel")
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
                top = torch.minimum(ellipse(u, v, 0, -0.09, w * 1.18, h * 1.06), box(au, v, w * 1.04, 0.08, 0.075, 0.30, 0.06))
                line = -h * 0.44 + 2.9 * (t - 0.80).clamp(min=0) * h
                lower = v - 0.36
            else:  # long: parted, falling over the shoulders
                top = torch.minimum(ellipse(u, v, 0, -0.09, w * 1.17, h * 1.07), box(au, v, w * 1.10, 0.36, 0.085, 0.56, 0.07))
                line = -h * 0.80 + 0.95 * (au + 0.04 * torch.sin(v * 9)) * 1.05 + 2.6 * (t - 0.80).clamp(min=0) * h
                lower = v - 0.90
            shape = torch.maximum(torch.maximum(top, (v - line) * 0.75), lower)
            self.canvas.paint(cover(shape, px), self._strands(rows, self.hair_colour), HAIR, rows)
            self.canvas.paint(cover((v - line).abs() - 0.012, 2 * px) * cover(top, px) * cover(lower, px) * 0.30, self.hair_colour[rows] * 0.45, None, rows)

    def _accessory(self) -> None:
        rows = self._rows("accessory", "glasses", "sunglasses")
        if len(rows):
            u, v, px, ex, ey = self._at(rows, "au", "v", "pixel", "eye_x", "eye_y")
            dark = _col((self.looks.accessory[rows] == code("accessory", "sunglasses")).float())
            lens = box(u, v, ex, ey + 0.012, 0.120 + 0.012 * dark, 0.088 + 0.006 * dark, 0.055)
            rim = lens.abs() - 0.013
            bridge = capsule(u, v, 0 * ex, ey - 0.02, ex - 0.11, ey - 0.012, 0.011)
            arm = capsule(u, v, ex + 0.115, ey - 0.02, self.width[rows] + 0.03, ey - 0.03, 0.013)
            lens_colour = (0.05 + 0.22 * ((ey + 0.09 - v) / 0.18).clamp(0, 1))[:, None] * _rgb(0.8, 0.85, 1.0)
            self.canvas.paint(cover(lens, px) * dark * 0.97, lens_colour, ACCESSORY, rows)
            glare = capsule(u - ex, v - ey, -0.05, 0.03, 0.0, -0.04, 0.010)
            self.canvas.paint(cover(glare, 2 * px) * (0.18 + 0.15 * dark) * cover(lens, px), _rgb(1.0, 1.0, 1.0), None, rows)
            frame = torch.minimum(torch.minimum(rim, bridge), arm)
            self.canvas.paint(cover(frame, px), _rgb(0.07, 0.06, 0.07), ACCESSORY, rows)
        rows = self._rows("accessory", "earrings")
        if len(rows):
            u, v, w, px = self._at(rows, "u", "v", "width", "pixel")
            size = 1 + 0.32 * self.p["ear_size"][rows]
            au = (u + 0.03 * self.n["yaw"][rows]).abs()
            y = 0.075 + 0.06 * (size - 1)
            ring = ellipse(au, v, w + 0.030, y + 0.065, 0.050, 0.064).abs() - 0.015
            self.canvas.paint(cover(ring, px), _rgb(0.96, 0.78, 0.22), ACCESSORY, rows)
            self.canvas.paint(cover(ellipse(au, v, w + 0.030, y + 0.145, 0.028, 0.028), px), _rgb(0.20, 0.78, 0.80), ACCESSORY, rows)
        rows = self._rows("accessory", "hat")
        if len(rows):
            u, v, w, h, px = self._at(rows, "u", "v", "width", "length", "pixel")
            felt = (1 - 0.25 * (u / 0.5).square() + 0.15 * u)[:, None] * _rgb(0.40, 0.27, 0.17)
            crown = torch.maximum(box(u, v, 0, -h * 0.98, w * 0.98, h * 0.46, 0.13), -ellipse(u, v, 0, -h * 1.48, 0.12, 0.05))
            self.canvas.paint(cover(crown, px), felt, ACCESSORY, rows)
            band = torch.maximum((v + h * 0.70 + 0.22 * u.square()).abs() - 0.045, u.abs() - w * 0.985)
            self.canvas.paint(cover(band, px), _rgb(0.12, 0.10, 0.12), ACCESSORY, rows)
            brim = ellipse(u, v + 0.30 * u.square() * -0.35, 0, -h * 0.60, w * 1.62, 0.070)
            self.canvas.paint(cover(brim, px), felt * 1.12, ACCESSORY, rows)

    def _robot(self, rows: Tensor) -> None:
        """A metal head in place of the person's: its identity shapes the head, eyes, grille and colour."""
        u, v, fu, au, px, w, h, metal, glow = self._at(
            rows, "u", "v", "fu", "au", "pixel", "width", "length", "metal", "eye_colour"
        )
        p = {name: value[rows] for name, value in self.p.items()}
        shade = (1.05 - 0.22 * (u / w).square() - 0.16 * v + 0.2 * u * self.light[rows, 0, None, None])[:, None]
        antenna = capsule(u, v, 0, -h * 0.9, 0.03 * p["mole_place"], -h - 0.14, 0.014)
        self.canvas.paint(cover(antenna, px), metal * 0.6, FACE, rows)
        ball = ellipse(u, v, 0.03 * p["mole_place"], -h - 0.16, 0.045, 0.045)
        self.canvas.paint(cover(ball, px), torch.lerp(glow, torch.ones_like(glow), 0.25), FACE, rows)
        bolt = box(au, v, w * 1.05, 0.0, 0.06 * (1 + 0.3 * p["ear_size"]), 0.10, 0.03)
        self.canvas.paint(cover(bolt, px), metal * 0.7, EARS, rows)
        head = box(u, v, 0, 0, w * 1.04, h * 0.96, 0.10 + 0.06 * p["jaw_squareness"])
        self.canvas.paint(cover(head, px), metal * shade, FACE, rows)
        self.canvas.paint(cover(head.abs() - 0.010, px), metal * 0.5, None, rows)
        visor = box(fu, v, 0, -0.06, w * 0.86, 0.125 * (1 + 0.2 * p["eye_openness"]), 0.06)
        self.canvas.paint(cover(visor, px), _rgb(0.09, 0.10, 0.14), None, rows)
        r = 0.062 * (1 + 0.25 * p["eye_size"])
        eye = ((au - self.eye_x[rows]).square() + (v + 0.06).square()).sqrt()
        bright = torch.lerp(glow, torch.ones_like(glow), 0.30)
        self.canvas.paint(torch.exp(-(eye / (1.6 * r)).square()) * 0.5 * cover(visor, px), bright, None, rows)
        self.canvas.paint(cover(eye - r, px), bright, None, rows)
        self.canvas.paint(cover(eye - r * 0.4, px), _rgb(1.0, 1.0, 1.0), None, rows)
        grille = box(fu, v, 0, 0.25, 0.13 * (1 + 0.3 * p["mouth_width"]), 0.060 * (1 + 0.3 * p["lip_fullness"]), 0.02)
        self.canvas.paint(cover(grille, px), _rgb(0.15, 0.16, 0.20), None, rows)
        bars = torch.sin(fu * (95 + 18 * p["nose_width"]))
        self.canvas.paint(cover(grille, px) * cover(-bars * 0.02, px), metal * 0.9, None, rows)
        rivet = ((au - w * 0.82).square() + (v.abs() - h * 0.74).square()).sqrt() - 0.020
        self.canvas.paint(cover(rivet, px), metal * 0.55, None, rows)

    def _veil_in_front(self) -> None:
        rows = self._rows("garment", "wedding dress")
        if len(rows):
            u, v, w, px = self._at(rows, "u", "v", "width", "pixel")
            t = u.abs() / w
            sides = cover(ellipse(u, v, 0, -0.10, w * 1.50, 0.62), 3 * px) + cover(box(u, v, 0, 0.5, w * 1.62, 0.52, 0.1), 3 * px)
            fall = sides.clamp(max=1) * ((t - 1.02) / 0.30).clamp(0, 1)
            self.canvas.paint(fall * 0.55, _rgb(0.98, 0.98, 1.0), GARMENT, rows)
            hat = _col((self.looks.accessory[rows] != code("accessory", "hat")).float())
            tiara = torch.maximum((v + self.length[rows] * 0.93 - 0.5 * u.square()).abs() - 0.030, u.abs() - 0.20)
            self.canvas.paint(cover(tiara, px) * hat, _rgb(0.99, 0.97, 0.93), GARMENT, rows)
            for x in (-0.14, 0.0, 0.14):
                gem = ellipse(u, v, x, -self.length[rows] * 0.97 - 0.02 + 0.5 * x * x, 0.030, 0.036)
                self.canvas.paint(cover(gem, px) * hat, _rgb(0.99, 0.98, 0.97), GARMENT, rows)

    # -- developing ----------------------------------------------------------------------------------------------

    def _develop(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Light across the frame, exposure, then the picture treatment."""
        lx = self.light[:, 0, None, None]
        rgb = rgb * (2 ** (0.16 * self.n["exposure"]) * (1 + 0.10 * self.x * lx))[:, None]
        rgb = rgb.clamp(0, 1)
        x, y = self.x, self.y
        r2 = (x.square() + y.square())[:, None]
        for value in ("sepia", "noir", "neon", "painterly"):
            rows = self._rows("treatment", value)
            if not len(rows):
                continue
            part = rgb[rows]
            grey = (part * _rgb(0.30, 0.59, 0.11)).sum(1, keepdim=True)
            if value == "sepia":
                part = torch.lerp(_rgb(0.16, 0.08, 0.03), _rgb(1.0, 0.92, 0.74), grey) * (1 - 0.12 * r2)
            elif value == "noir":
                grey = grey.sqrt()  # film lifts the shadows, so that dark skin keeps its features
                grey = ((grey - 0.62) * 1.30 + 0.46).clamp(0.03, 1)
                part = (grey * (1.06 - 0.30 * r2)).expand(-1, 3, -1, -1)
            elif value == "neon":
                part = (grey + (part - grey) * 1.5) * 0.66
                edge = (F.pad(grey, (1, 1, 1, 1), mode="replicate"))
                dx = (edge[:, :, 1:-1, 2:] - edge[:, :, 1:-1, :-2]).abs() + (edge[:, :, 2:, 1:-1] - edge[:, :, :-2, 1:-1]).abs()
                side = ((x + 1) / 2)[:, None]
                part = part + 0.55 * dx * torch.lerp(_rgb(1.0, 0.1, 0.9), _rgb(0.1, 0.9, 1.0), side)
                part = part + 0.20 * r2 * torch.lerp(_rgb(0.9, 0.0, 0.8), _rgb(0.0, 0.7, 0.9), side)
            else:
                k = max(3, self.size // 64 * 2 + 1)
                flat = F.avg_pool2d(F.pad(part, (k // 2,) * 4, mode="replicate"), k, 1)
                flat = torch.lerp(flat, part, 0.5)
                strokes = 0.055 * torch.sin((x * 31 + y * 47) + 3 * torch.sin(y * 9 + x * 4)) * torch.sin((x * 40 - y * 26) + 2 * torch.sin(x * 7))
                mean = flat.mean(1, keepdim=True)
                part = (mean + (flat - mean) * 1.25) * (1 + strokes[:, None]) + 0.02
            rgb[rows] = part.clamp(0, 1)
        return rgb.clamp_(0, 1)

    def _landmarks(self) -> Float[Tensor, "b 5 2"]:
        yaw = 0.075 * self.n["yaw"]
        zero = torch.zeros_like(yaw)
        mouth_x = yaw + 0.012 * self.n["yaw"]
        points = [
            (yaw - self.eye_x, self.eye_y), (yaw + self.eye_x, self.eye_y),
            (yaw + 0.035 * self.n["yaw"], self.nose_y),
            (mouth_x - self.mouth_x, self.mouth_y + zero), (mouth_x + self.mouth_x, self.mouth_y + zero),
        ]  # fmt: skip
        uv = torch.stack([torch.cat([u, v], dim=2)[:, 0] for u, v in points], dim=1)  # b 5 2
        cos, sin = self.roll.cos()[:, 0], self.roll.sin()[:, 0]
        x = self.cx[:, 0] + self.scale[:, 0] * (uv[..., 0] * cos - uv[..., 1] * sin)
        y = self.cy[:, 0] + self.scale[:, 0] * (uv[..., 1] * cos + uv[..., 0] * sin)
        return torch.stack([x, y], dim=2) / 2 + 0.5


def _names(record) -> tuple[str, ...]:
    from mcpkg.mini.world import IDENTITY, NUISANCE

    return IDENTITY if isinstance(record, People) else NUISANCE


def _rgb(r: float, g: float, b: float) -> Float[Tensor, "1 3 1 1"]:
    return torch.tensor([r, g, b])[None, :, None, None]
