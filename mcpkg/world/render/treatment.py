"""From painted colours to the final picture: light, exposure and treatment (sepia, noir, ...)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.world.render.frame import Frame


def develop(frame: Frame, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Apply light across the frame, exposure, then the treatment."""
    lx = frame.light[:, 0, None, None]
    rgb = rgb * (2 ** (0.16 * frame.n["exposure"]) * (1 + 0.10 * frame.x * lx))[:, None]
    rgb = rgb.clamp(0, 1)
    x, y = frame.x, frame.y
    r2 = (x.square() + y.square())[:, None]
    for value in ("sepia", "noir", "neon", "painterly"):
        rows = frame.rows("treatment", value)
        if not len(rows):
            continue
        part = rgb[rows]
        grey = (part * frame.rgb(0.30, 0.59, 0.11)).sum(1, keepdim=True)
        if value == "sepia":
            part = torch.lerp(frame.rgb(0.16, 0.08, 0.03), frame.rgb(1.0, 0.92, 0.74), grey) * (1 - 0.12 * r2)
        elif value == "noir":
            grey = grey.sqrt()  # brightens the shadows, so that dark skin keeps its features
            grey = ((grey - 0.62) * 1.30 + 0.46).clamp(0.03, 1)
            part = (grey * (1.06 - 0.30 * r2)).expand(-1, 3, -1, -1)
        elif value == "neon":
            part = (grey + (part - grey) * 1.5) * 0.66
            edge = F.pad(grey, (1, 1, 1, 1), mode="replicate")
            dx = (edge[:, :, 1:-1, 2:] - edge[:, :, 1:-1, :-2]).abs() + (
                edge[:, :, 2:, 1:-1] - edge[:, :, :-2, 1:-1]
            ).abs()
            side = ((x + 1) / 2)[:, None]
            part = part + 0.55 * dx * torch.lerp(frame.rgb(1.0, 0.1, 0.9), frame.rgb(0.1, 0.9, 1.0), side)
            part = part + 0.20 * r2 * torch.lerp(frame.rgb(0.9, 0.0, 0.8), frame.rgb(0.0, 0.7, 0.9), side)
        else:
            k = max(3, frame.size // 64 * 2 + 1)
            flat = F.avg_pool2d(F.pad(part, (k // 2,) * 4, mode="replicate"), k, 1)
            flat = torch.lerp(flat, part, 0.5)
            strokes = 0.055 * torch.sin((x * 31 + y * 47) + 3 * torch.sin(y * 9 + x * 4))
            strokes = strokes * torch.sin((x * 40 - y * 26) + 2 * torch.sin(x * 7))
            mean = flat.mean(1, keepdim=True)
            part = (mean + (flat - mean) * 1.25) * (1 + strokes[:, None]) + 0.02
        rgb[rows] = part.clamp(0, 1)
    return rgb.clamp_(0, 1)
