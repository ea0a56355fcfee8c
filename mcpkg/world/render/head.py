"""The head: ears, face and facial features, each shaped by the identity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mcpkg.world.attributes import EARS, FACE
from mcpkg.world.render.frame import Frame
from mcpkg.world.shapes import box, capsule, cover, ellipse


def paint_ears(frame: Frame) -> None:
    u = (frame.u + 0.03 * frame.n["yaw"]).abs()
    size = 1 + 0.32 * frame.p["ear_size"]
    ear = ellipse(u, frame.v, frame.width * 0.99, -0.005, 0.062 * size, 0.092 * size)
    frame.canvas.paint(cover(ear, frame.pixel), frame.skin * 0.93, EARS)
    inner = ellipse(u, frame.v, frame.width + 0.018 * size, -0.005, 0.030 * size, 0.055 * size)
    frame.canvas.paint(cover(inner, 2 * frame.pixel) * 0.5, frame.skin * 0.70)


def paint_face(frame: Frame) -> None:
    skin = frame.skin_shade()
    frame.face = cover(_face_distance(frame), frame.pixel)
    frame.canvas.paint(frame.face, skin, FACE)
    blush = torch.exp(-(((frame.au - 0.205) / 0.075).square() + ((frame.v - 0.125) / 0.06).square()))
    frame.canvas.paint(blush * (0.20 + 0.14 * frame.feminine) * frame.face, frame.skin * frame.rgb(1.0, 0.68, 0.62))
    strength = (frame.p["freckles"] - 0.1).clamp(min=0) * 0.8
    for x, y, r in (
        (0.10, 0.075, 0.011), (0.15, 0.11, 0.012), (0.20, 0.07, 0.011),
        (0.235, 0.115, 0.010), (0.06, 0.105, 0.010), (0.17, 0.045, 0.010),
    ):  # fmt: skip
        dot = ((frame.au - x).square() + (frame.v - y).square()).sqrt_() - r
        freckle = frame.skin * frame.rgb(0.62, 0.45, 0.36)
        frame.canvas.paint(cover(dot, 1.5 * frame.pixel) * strength * frame.face, freckle)
    # a mole is on an arc from cheek over chin to cheek, or absent
    angle, size = 0.5 * math.pi * frame.p["mole_place"], frame.p["mole_size"].clamp(min=0)
    radius = 0.010 + 0.012 * size
    mole = ellipse(frame.fu, frame.v, 0.24 * angle.sin(), 0.05 + 0.335 * angle.cos(), radius, radius)
    frame.canvas.paint(cover(mole, frame.pixel) * (size > 0) * frame.face, frame.skin * 0.28)
    beard = frame.p["beard"].clamp(min=0)
    below = 0.145 + 0.55 * (0.30 - frame.au).clamp(min=0) * (frame.au < 0.30) - 0.10 * beard
    jaw = cover(below - frame.v, 0.05) * frame.face * (0.40 + 0.60 * beard).clamp(max=0.95) * (beard > 0.05)
    frame.canvas.paint(jaw, 0.24 * frame.skin + 0.02)


def _face_distance(frame: Frame) -> Tensor:
    """Return the distance to the outline of the face: an ellipse whose lower half follows the jaw."""
    v = frame.v / frame.length
    low = v.clamp(min=0)
    taper = 1 + (0.16 * frame.p["jaw_width"] - 0.06) * low * low
    x2, y2 = (frame.u / (frame.width * taper)).square(), v.square()
    roundish = (x2 + y2).sqrt()
    squarish = (x2 * x2 + y2 * y2).sqrt().sqrt()
    mix = 0.30 + 0.30 * frame.p["jaw_squareness"]
    return (torch.lerp(roundish, squarish, mix * (low * 1.6).clamp(max=1)) - 1) * frame.width


def paint_eyes(frame: Frame) -> None:
    px, u, v = frame.pixel, frame.au - frame.eye_x, frame.v - frame.eye_y
    tilt = 0.22 * frame.p["eye_tilt"]
    v = v + u * tilt
    rx = 0.078 * (1 + 0.20 * frame.p["eye_size"])
    ry = 0.043 * (1 + 0.20 * frame.p["eye_size"]) * (1 + 0.28 * frame.p["eye_openness"]) * (1 - 0.10 * frame.n["smile"])
    socket = torch.exp(-((u / (rx * 1.5)).square() + ((v + 0.01) / (ry * 2.2)).square())) * 0.22
    frame.canvas.paint(socket * frame.face, frame.skin * 0.55)
    lash = ellipse(u, v + 0.012 + 0.004 * frame.feminine, 0.004, 0, rx * (1.07 + 0.05 * frame.feminine), ry * 1.05)
    frame.canvas.paint(cover(lash, px), frame.skin * 0.12 + 0.03)
    eye = cover(ellipse(u, v, 0, 0, rx, ry), px)
    frame.canvas.paint(eye, frame.rgb(0.97, 0.97, 0.96))
    look = u - 0.020 * frame.n["gaze"] * frame.fu.sign()
    r = 0.040 * (1 + 0.14 * frame.p["eye_size"])
    iris2 = (look.square() + (v * 0.97).square()).sqrt()
    frame.canvas.paint(cover(iris2 - r, px) * eye, frame.eye_colour)
    frame.canvas.paint(cover((iris2 - r).abs() - 0.006, px) * eye * 0.6, frame.eye_colour * 0.4)
    frame.canvas.paint(cover(iris2 - r * 0.48, px) * eye, frame.rgb(0.04, 0.04, 0.05))
    glint = ((look * frame.fu.sign() + 0.012).square() + (v + 0.014).square()).sqrt() - 0.011
    frame.canvas.paint(cover(glint, px) * eye, frame.rgb(1.0, 1.0, 1.0))


def paint_brows(frame: Frame) -> None:
    y = frame.eye_y - 0.105 - 0.024 * frame.p["brow_height"]
    tilt = 0.017 * frame.p["brow_tilt"]
    arch = frame.v + 1.3 * (frame.au - frame.eye_x).square()
    thick = 0.0175 * (1 + 0.55 * frame.p["brow_thickness"]) * (1.08 - 0.18 * frame.feminine)
    brow = capsule(frame.au, arch, frame.eye_x - 0.075, y + tilt, frame.eye_x + 0.080, y - tilt, thick)
    frame.canvas.paint(cover(brow, frame.pixel) * frame.face, frame.skin * 0.22 + 0.02)


def paint_nose(frame: Frame) -> None:
    u = frame.fu - 0.035 * frame.n["yaw"]
    wide = 1 + 0.34 * frame.p["nose_width"]
    side = u * torch.where(frame.light[:, 0, None, None] >= 0, -1.0, 1.0)
    height = (frame.v - 0.5 * (frame.nose_y - 0.03)).abs() - (0.5 * frame.nose_y + 0.01)
    ridge = torch.exp(-(((side - 0.030) / 0.022).square())) * cover(height, 0.10)
    frame.canvas.paint(ridge * 0.30 * frame.face, frame.skin * 0.45)
    tip = torch.exp(-((u / (0.045 * wide)).square() + ((frame.v - frame.nose_y + 0.012) / 0.035).square()))
    frame.canvas.paint(tip * 0.45, frame.skin * 1.10 + 0.03)
    wing = torch.minimum(
        ellipse(u.abs(), frame.v, 0.048 * wide, frame.nose_y + 0.012, 0.020, 0.022),
        ellipse(u, frame.v, 0, frame.nose_y + 0.020, 0.034 * wide, 0.012),
    )
    frame.canvas.paint(cover(wing, 2.5 * frame.pixel) * 0.55, frame.skin * 0.55)
    nostril = ellipse(u.abs(), frame.v, 0.030 * wide, frame.nose_y + 0.018, 0.014 * wide, 0.009)
    frame.canvas.paint(cover(nostril, 1.3 * frame.pixel) * 0.85, frame.skin * 0.22)


def paint_mouth(frame: Frame) -> None:
    px, u = frame.pixel, frame.fu - 0.012 * frame.n["yaw"]
    smile = frame.n["smile"]
    along = u / frame.mouth_x
    v = frame.v - frame.mouth_y + (0.030 * smile + 0.012) * (along.square() - 0.35)
    full = 0.030 * (1 + 0.42 * frame.p["lip_fullness"])
    red = torch.lerp(frame.rgb(0.86, 0.62, 0.58), frame.rgb(0.86, 0.40, 0.42), frame.feminine[:, None])
    lip = frame.skin * red
    upper = ellipse(u, v, 0, -full * 0.25, frame.mouth_x, full * (0.82 - 0.16 * torch.exp(-(along / 0.16).square())))
    lower = ellipse(u, v, 0, full * 0.38, frame.mouth_x * 0.90, full * 0.95)
    frame.canvas.paint(cover(torch.minimum(upper, lower), px), lip)
    shine = ellipse(u, v, 0, full * 0.62, frame.mouth_x * 0.42, full * 0.22)
    frame.canvas.paint(cover(shine, 3 * px) * 0.35, lip * 1.25 + 0.08)
    opened = (smile - 0.15).clamp(min=0)
    teeth = ellipse(u, v, 0, full * 0.10, frame.mouth_x * 0.78, full * 0.75 * opened + 1e-3)
    frame.canvas.paint(cover(teeth, px) * (opened > 0.02), frame.rgb(0.97, 0.96, 0.94))
    line = torch.maximum(v.abs() - 0.0065, u.abs() - frame.mouth_x * 1.02)
    frame.canvas.paint(cover(line, px) * (opened <= 0.02) + 0 * v, lip * 0.38)


def paint_robot_head(frame: Frame, rows: Tensor) -> None:
    """Paint a metal head over the person's; the identity shapes its head, eyes, grille and colour."""
    u, v, fu, au, px, w, h, metal, glow = frame.at(
        rows, "u", "v", "fu", "au", "pixel", "width", "length", "metal", "eye_colour"
    )
    p = {name: value[rows] for name, value in frame.p.items()}
    shade = (1.05 - 0.22 * (u / w).square() - 0.16 * v + 0.2 * u * frame.light[rows, 0, None, None])[:, None]
    antenna = capsule(u, v, 0, -h * 0.9, 0.03 * p["mole_place"], -h - 0.14, 0.014)
    frame.canvas.paint(cover(antenna, px), metal * 0.6, FACE, rows)
    ball = ellipse(u, v, 0.03 * p["mole_place"], -h - 0.16, 0.045, 0.045)
    frame.canvas.paint(cover(ball, px), torch.lerp(glow, torch.ones_like(glow), 0.25), FACE, rows)
    bolt = box(au, v, w * 1.05, 0.0, 0.06 * (1 + 0.3 * p["ear_size"]), 0.10, 0.03)
    frame.canvas.paint(cover(bolt, px), metal * 0.7, EARS, rows)
    head = box(u, v, 0, 0, w * 1.04, h * 0.96, 0.10 + 0.06 * p["jaw_squareness"])
    frame.canvas.paint(cover(head, px), metal * shade, FACE, rows)
    frame.canvas.paint(cover(head.abs() - 0.010, px), metal * 0.5, None, rows)
    visor = box(fu, v, 0, -0.06, w * 0.86, 0.125 * (1 + 0.2 * p["eye_openness"]), 0.06)
    frame.canvas.paint(cover(visor, px), frame.rgb(0.09, 0.10, 0.14), None, rows)
    r = 0.062 * (1 + 0.25 * p["eye_size"])
    eye = ((au - frame.eye_x[rows]).square() + (v + 0.06).square()).sqrt()
    bright = torch.lerp(glow, torch.ones_like(glow), 0.30)
    frame.canvas.paint(torch.exp(-(eye / (1.6 * r)).square()) * 0.5 * cover(visor, px), bright, None, rows)
    frame.canvas.paint(cover(eye - r, px), bright, None, rows)
    frame.canvas.paint(cover(eye - r * 0.4, px), frame.rgb(1.0, 1.0, 1.0), None, rows)
    grille = box(fu, v, 0, 0.25, 0.13 * (1 + 0.3 * p["mouth_width"]), 0.060 * (1 + 0.3 * p["lip_fullness"]), 0.02)
    frame.canvas.paint(cover(grille, px), frame.rgb(0.15, 0.16, 0.20), None, rows)
    bars = torch.sin(fu * (95 + 18 * p["nose_width"]))
    frame.canvas.paint(cover(grille, px) * cover(-bars * 0.02, px), metal * 0.9, None, rows)
    rivet = ((au - w * 0.82).square() + (v.abs() - h * 0.74).square()).sqrt() - 0.020
    frame.canvas.paint(cover(rivet, px), metal * 0.55, None, rows)
