"""Previews of a training in progress: portraits, and where the placeholders are attended to."""

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.training.trainer import Training
from mcpkg.util.images import overlay


def draw_preview(training: Training, n: int = 4, seed: int = 0) -> Generated:
    """Draw portraits under the composed prompt between two steps of a training, which is not changed by it.

    Args:
        n: how many.
        seed: image i starts from seed + i, so that previews of one training can be compared.
    """
    return generate_portraits(
        training.backend, training.live_adapter(), sampling=Sampling(n=n, seed=seed), capture=True
    )


def preview_grid(generated: Generated) -> Float[Tensor, "3 rows columns"]:
    """One picture: portraits in the first row, below them each placeholder's attention ([V1], then [V2])."""
    rows = [generated.images.cpu()]
    for role in ("source", "reference"):
        heatmaps = zip(generated.images, generated.maps.heatmap(role), strict=True)
        pictures = [overlay(image, heatmap) for image, heatmap in heatmaps]
        rows.append(torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]))
    return torch.cat([torch.cat(list(row.float()), dim=2) for row in rows], dim=1)
