"""Previews of a training in progress: portraits, how like the source they are, and where the placeholders look."""

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.interfaces import Backend, parse_in_batches
from mcpkg.training.trainer import Training
from mcpkg.util.images import overlay, to_tensor

LINE_PX = 16
"""Height of the line below the portraits."""


def draw_preview(training: Training, n: int = 4, seed: int = 0) -> Generated:
    """Draw portraits under the composed prompt between two steps of a training, which is not changed by it.

    Args:
        n: how many.
        seed: image i starts from seed + i, so that previews of one training can be compared.
    """
    return generate_portraits(
        training.backend, training.live_adapter(), sampling=Sampling(n=n, seed=seed), capture=True
    )


@torch.no_grad()
def preview_likeness(backend: Backend, generated: Generated, source: Portraits) -> Float[Tensor, " n"]:
    """Each portrait's mean cosine to the source's photos, as `evaluate_portraits` has it: by the network that scores.

    Returns:
        NaN where there is not exactly one face, or no network that scores.
    """
    faces = parse_in_batches(backend, generated.images)
    portraits = backend.identity_scorer.embed(generated.images, faces.landmarks)  # n d
    photos = backend.identity_scorer.embed(source.images, source.faces.landmarks)  # m d
    likeness = (portraits @ photos.T).mean(dim=1)
    return torch.where(faces.count == 1, likeness, torch.nan).cpu()


def preview_grid(generated: Generated, likeness: Float[Tensor, " n"] | None = None) -> Float[Tensor, "3 rows columns"]:
    """One picture: portraits in the first row, below them their likeness if given, and each placeholder's attention
    ([V1], then [V2])."""
    rows = [generated.images.cpu()]
    if likeness is not None:
        width = generated.images.shape[-1]
        rows.append(torch.stack([_line("no score" if x.isnan() else f"{x:.2f}", width) for x in likeness]))
    for role in ("source", "reference"):
        heatmaps = zip(generated.images, generated.maps.heatmap(role), strict=True)
        pictures = [overlay(image, heatmap) for image, heatmap in heatmaps]
        rows.append(torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]))
    return torch.cat([torch.cat(list(row.float()), dim=2) for row in rows], dim=1)


def _line(text: str, width: int) -> Float[Tensor, "3 h w"]:
    """Black text in the middle of a white line."""
    line = Image.new("RGB", (width, LINE_PX), "white")
    ImageDraw.Draw(line).text((width / 2, LINE_PX / 2), text, "black", anchor="mm")
    return to_tensor(line)
