"""Pictures of a training under way: portraits in the making, and where the learned words look."""

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.training.trainer import Training
from mcpkg.util.images import overlay


def draw_preview(training: Training, n: int = 4, seed: int = 0) -> Generated:
    """Portraits under the composed prompt, drawn between two steps of a training, which goes on as if nothing were.

    Args:
        n: how many.
        seed: image i starts from seed + i, so that previews of one training can be compared.
    """
    return generate_portraits(training.backend, training.live_adapter(), n=n, seed=seed, capture=True)


def preview_grid(generated: Generated) -> Float[Tensor, "3 rows columns"]:
    """One picture: portraits in the first row, below them each word's attention ([V1], then [V2])."""
    rows = [generated.images.cpu()]
    for role in ("source", "reference"):
        heat = [overlay(image, heat) for image, heat in zip(generated.images, generated.maps[role], strict=True)]
        rows.append(torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in heat]))
    return torch.cat([torch.cat(list(row.float()), dim=2) for row in rows], dim=1)
