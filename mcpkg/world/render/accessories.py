"""Glasses, earrings and hats."""

from __future__ import annotations

import torch

from mcpkg.world.attributes import ACCESSORY, code
from mcpkg.world.render.frame import Frame, column
from mcpkg.world.shapes import box, capsule, cover, ellipse


def paint_accessory(frame: Frame) -> None:
    rows = frame.rows("accessory", "glasses", "sunglasses")
    if len(rows):
        u, v, px, ex, ey = frame.at(rows, "au", "v", "pixel", "eye_x", "eye_y")
        dark = column((frame.looks.accessory[rows] == code("accessory", "sunglasses")).float())
        lens = box(u, v, ex, ey + 0.012, 0.120 + 0.012 * dark, 0.088 + 0.006 * dark, 0.055)
        rim = lens.abs() - 0.013
        bridge = capsule(u, v, 0 * ex, ey - 0.02, ex - 0.11, ey - 0.012, 0.011)
        arm = capsule(u, v, ex + 0.115, ey - 0.02, frame.width[rows] + 0.03, ey - 0.03, 0.013)
        lens_colour = (0.05 + 0.22 * ((ey + 0.09 - v) / 0.18).clamp(0, 1))[:, None] * frame.rgb(0.8, 0.85, 1.0)
        frame.canvas.paint(cover(lens, px) * dark * 0.97, lens_colour, ACCESSORY, rows)
        glare = capsule(u - ex, v - ey, -0.05, 0.03, 0.0, -0.04, 0.010)
        shine = cover(glare, 2 * px) * (0.18 + 0.15 * dark) * cover(lens, px)
        frame.canvas.paint(shine, frame.rgb(1.0, 1.0, 1.0), None, rows)
        glasses = torch.minimum(torch.minimum(rim, bridge), arm)
        frame.canvas.paint(cover(glasses, px), frame.rgb(0.07, 0.06, 0.07), ACCESSORY, rows)
    rows = frame.rows("accessory", "earrings")
    if len(rows):
        u, v, w, px = frame.at(rows, "u", "v", "width", "pixel")
        size = 1 + 0.32 * frame.p["ear_size"][rows]
        au = (u + 0.03 * frame.n["yaw"][rows]).abs()
        y = 0.075 + 0.06 * (size - 1)
        ring = ellipse(au, v, w + 0.030, y + 0.065, 0.050, 0.064).abs() - 0.015
        frame.canvas.paint(cover(ring, px), frame.rgb(0.96, 0.78, 0.22), ACCESSORY, rows)
        drop = ellipse(au, v, w + 0.030, y + 0.145, 0.028, 0.028)
        frame.canvas.paint(cover(drop, px), frame.rgb(0.20, 0.78, 0.80), ACCESSORY, rows)
    rows = frame.rows("accessory", "hat")
    if len(rows):
        u, v, w, h, px = frame.at(rows, "u", "v", "width", "length", "pixel")
        felt = (1 - 0.25 * (u / 0.5).square() + 0.15 * u)[:, None] * frame.rgb(0.40, 0.27, 0.17)
        crown = torch.maximum(
            box(u, v, 0, -h * 0.98, w * 0.98, h * 0.46, 0.13), -ellipse(u, v, 0, -h * 1.48, 0.12, 0.05)
        )
        frame.canvas.paint(cover(crown, px), felt, ACCESSORY, rows)
        band = torch.maximum((v + h * 0.70 + 0.22 * u.square()).abs() - 0.045, u.abs() - w * 0.985)
        frame.canvas.paint(cover(band, px), frame.rgb(0.12, 0.10, 0.12), ACCESSORY, rows)
        brim = ellipse(u, v + 0.30 * u.square() * -0.35, 0, -h * 0.60, w * 1.62, 0.070)
        frame.canvas.paint(cover(brim, px), felt * 1.12, ACCESSORY, rows)
