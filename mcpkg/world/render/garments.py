"""Neck, shoulders and garments."""

from __future__ import annotations

import torch

from mcpkg.world.attributes import GARMENT, NECK, code
from mcpkg.world.render.frame import Frame, column
from mcpkg.world.shapes import box, capsule, cover, ellipse


def paint_body(frame: Frame) -> None:
    """Paint the neck with the shadow of the chin, bare shoulders, and the garment over them."""
    u, v, px = frame.bu, frame.bv, frame.pixel
    neck = box(u, v, 0, 0.50, 0.155 + 0.02 * frame.p["jaw_width"], 0.26, 0.03)
    shadow = 1 - 0.28 * cover(ellipse(frame.u, frame.v, 0, 0.20, frame.width, 0.36), 0.10)
    skin = frame.skin * (0.93 * shadow)[:, None]
    frame.canvas.paint(cover(neck, px), skin, NECK)
    shoulders = torch.minimum(box(u, v, 0, 1.22, 0.70, 0.60, 0.28), ellipse(u, v, 0, 0.80, 0.42, 0.22))
    frame.canvas.paint(cover(shoulders, px), frame.skin * (0.96 - 0.10 * (u / 0.7).square())[:, None], NECK)
    fold = 1 - 0.20 * (u / 0.75).square() + 0.10 * u * frame.light[:, 0, None, None]
    cloth = frame.garment_colour * fold[:, None] + 0.015
    outline = cover(shoulders, px)
    for value, wear in {
        "suit": _suit, "shirt": _shirt, "hoodie": _hoodie, "sweater": _sweater,
        "kimono": _kimono, "spacesuit": _spacesuit, "wedding dress": _dress,
    }.items():  # fmt: skip
        rows = frame.rows("garment", value)
        if len(rows):
            wear(frame, rows, u[rows], v[rows], px[rows], outline[rows], cloth[rows])


def _suit(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    au = u.abs()
    frame.canvas.paint(outline, cloth, GARMENT, rows)
    opening = (au - (0.92 - v) * 0.42) * 0.8
    opening = torch.maximum(opening, 0.56 - v - 0.1 * au)
    frame.canvas.paint(cover(opening, px) * outline, frame.rgb(0.96, 0.96, 0.97), GARMENT, rows)
    tie = torch.maximum(torch.maximum(au - 0.028 - 0.05 * (v - 0.62), 0.62 - v), v - 0.98)
    silk = cloth.mean(dim=(2, 3), keepdim=True) * 0.45 + frame.rgb(0.16, 0.03, 0.05)
    frame.canvas.paint(cover(tie, px), silk, GARMENT, rows)
    lapel = ((au - (0.94 - v) * 0.42).abs() - 0.010).maximum(0.55 - v)
    frame.canvas.paint(cover(lapel, px) * outline, cloth * 0.6, GARMENT, rows)


def _shirt(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    au = u.abs()
    neckline = torch.maximum(au - (0.74 - v) * 0.62, 0.45 - v)
    frame.canvas.paint(outline * (1 - cover(neckline, px)), cloth, GARMENT, rows)
    collar = capsule(au, v, 0.165, 0.555, 0.065, 0.70, 0.042)
    frame.canvas.paint(cover(collar, px), cloth * 1.12 + 0.05, GARMENT, rows)
    frame.canvas.paint(cover((collar.abs() - 0.004), px) * 0.7, cloth * 0.55, GARMENT, rows)
    frame.canvas.paint(cover((u.abs() - 0.006).maximum(0.74 - v), px) * outline, cloth * 0.6, GARMENT, rows)
    for y in (0.80, 0.93):
        frame.canvas.paint(cover(ellipse(u, v, 0.026, y, 0.014, 0.014), px), frame.rgb(0.95, 0.95, 0.92), GARMENT, rows)


def _hoodie(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    hood = ellipse(u, v, 0, 0.60, 0.36, 0.20)
    inner = ellipse(u, v, 0, 0.535, 0.205, 0.135)
    shape = torch.maximum(cover(hood, px), outline) * (1 - cover(inner, px))
    frame.canvas.paint(shape, cloth, GARMENT, rows)
    rim = (hood.abs() - 0.012).maximum(0.56 - v)
    frame.canvas.paint(cover(rim, 2 * px) * shape, cloth * 0.62, GARMENT, rows)
    string = capsule(u.abs(), v, 0.10, 0.68, 0.115, 0.90, 0.011)
    cord = frame.rgb(0.95, 0.95, 0.93) - 0.55 * (cloth.mean((1, 2, 3), keepdim=True) > 0.6)  # dark on light cloth
    frame.canvas.paint(cover(string, px), cord, GARMENT, rows)


def _sweater(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    neckline = ellipse(u, v, 0, 0.50, 0.185, 0.135)
    knit = 1 + 0.09 * torch.sin(v * 58) * torch.sin(u * 40)
    frame.canvas.paint(outline * (1 - cover(neckline, px)), cloth * knit[:, None], GARMENT, rows)
    frame.canvas.paint(cover((neckline - 0.022).abs() - 0.024, px) * outline, cloth * 0.78, GARMENT, rows)
    band = torch.maximum((v - 0.86 - 0.025 * torch.sin(u * 26)).abs() - 0.032, outline * 0 - 1)
    frame.canvas.paint(cover(band, px) * outline, cloth * 0.5 + 0.42, GARMENT, rows)


def _kimono(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    neckline = torch.maximum(u.abs() - (0.82 - v) * 0.55, 0.40 - v)
    across, down = torch.remainder(u + 0.11, 0.30) - 0.15, torch.remainder(v, 0.30) - 0.15
    motif = cover((across.square() + down.square()).sqrt() - 0.045, px)
    cloth_motif = torch.lerp(cloth, 0.45 * cloth + 0.52, motif[:, None] * 0.8)
    frame.canvas.paint(outline * (1 - cover(neckline, px)), cloth_motif, GARMENT, rows)
    under = capsule(u, v, 0.20, 0.44, -0.10, 0.99, 0.055)
    over = capsule(u, v, -0.20, 0.44, 0.14, 1.05, 0.055)
    for band in (under, over):
        frame.canvas.paint(cover(band, px), 0.30 * cloth + 0.66, GARMENT, rows)
        frame.canvas.paint(cover(band.abs() - 0.006, px), cloth * 0.5, GARMENT, rows)


def _spacesuit(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    wide = torch.maximum(outline, cover(box(u, v, 0, 1.20, 0.80, 0.58, 0.30), px))
    frame.canvas.paint(wide, cloth, GARMENT, rows)
    seam = (u.abs() - 0.40 - 0.1 * (v - 0.6)).abs() - 0.012
    frame.canvas.paint(cover(seam, px) * wide, cloth * 0.6, GARMENT, rows)
    ring = ellipse(u, v, 0, 0.555, 0.285, 0.125)
    steel = (0.62 + 0.30 * u / 0.3)[:, None] * frame.rgb(0.9, 0.95, 1.0)
    frame.canvas.paint(cover(ring.abs() - 0.038, px), steel, GARMENT, rows)
    panel = box(u, v, 0, 0.88, 0.15, 0.085, 0.02)
    frame.canvas.paint(cover(panel, px), frame.rgb(0.80, 0.83, 0.87), GARMENT, rows)
    for x, colour in ((-0.085, (0.9, 0.2, 0.2)), (0.0, (0.2, 0.75, 0.35)), (0.085, (0.2, 0.45, 0.95))):
        frame.canvas.paint(cover(ellipse(u, v, x, 0.875, 0.028, 0.028), px), frame.rgb(*colour), GARMENT, rows)


def _dress(frame: Frame, rows, u, v, px, outline, cloth) -> None:
    edge = 0.80 - 0.055 * torch.cos(u * 9.5) + 0.02 * torch.sin(u.abs() * 44)  # a heart-shaped lace neckline
    bodice = outline * cover(edge - v, px) * cover(u.abs() - 0.50, px)
    lace = 1 + 0.06 * torch.sin(u * 55) * torch.sin(v * 55)
    frame.canvas.paint(bodice, cloth * lace[:, None], GARMENT, rows)
    frame.canvas.paint(cover((v - edge - 0.018).abs() - 0.014, px) * bodice, cloth * 0.75 + 0.2, GARMENT, rows)


def paint_veil_behind(frame: Frame) -> None:
    rows = frame.rows("garment", "wedding dress")
    if len(rows):
        ru, rv, rp = frame.at(rows, "bu", "bv", "pixel")
        veil = torch.minimum(ellipse(ru, rv, 0, -0.15, 0.60, 0.60), box(ru, rv, 0, 0.55, 0.66, 0.65, 0.2))
        frame.canvas.paint(cover(veil, 3 * rp) * 0.62, frame.rgb(0.97, 0.97, 1.0), GARMENT, rows)


def paint_veil_in_front(frame: Frame) -> None:
    rows = frame.rows("garment", "wedding dress")
    if len(rows):
        u, v, w, px = frame.at(rows, "u", "v", "width", "pixel")
        t = u.abs() / w
        sides = cover(ellipse(u, v, 0, -0.10, w * 1.50, 0.62), 3 * px)
        sides = sides + cover(box(u, v, 0, 0.5, w * 1.62, 0.52, 0.1), 3 * px)
        fall = sides.clamp(max=1) * ((t - 1.02) / 0.30).clamp(0, 1)
        frame.canvas.paint(fall * 0.55, frame.rgb(0.98, 0.98, 1.0), GARMENT, rows)
        hat = column((frame.looks.accessory[rows] != code("accessory", "hat")).float())
        tiara = torch.maximum((v + frame.length[rows] * 0.93 - 0.5 * u.square()).abs() - 0.030, u.abs() - 0.20)
        frame.canvas.paint(cover(tiara, px) * hat, frame.rgb(0.99, 0.97, 0.93), GARMENT, rows)
        for x in (-0.14, 0.0, 0.14):
            gem = ellipse(u, v, x, -frame.length[rows] * 0.97 - 0.02 + 0.5 * x * x, 0.030, 0.036)
            frame.canvas.paint(cover(gem, px) * hat, frame.rgb(0.99, 0.98, 0.97), GARMENT, rows)
