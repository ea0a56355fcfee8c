"""The pictures of the model card: renders, generated images, attention of words, and restored images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.factory.exam import Exam, degrade_portraits, render_sample
from mcpkg.util.images import save_figure
from mcpkg.world.population import BALANCED, WEB


def write_sheets(exam: Exam, folder: Path) -> list[Path]:
    """Write every sheet as PNG and return the paths."""
    sheets = {"world": world, "generated": generated, "attention": attention, "restored": restored}
    paths = {name: folder / f"{name}.png" for name in sheets}
    for name, draw in sheets.items():
        save_figure(draw(exam), paths[name], dpi=110)
    return list(paths.values())


def world(exam: Exam) -> Figure:
    """Draw the training population: four people per row, two looks each."""
    sample = render_sample(WEB, 12, seed=10, per_person=2)
    return _grid(sample.renders.image, columns=8, title="Renders: pairs of pictures show one person in two looks")


def generated(exam: Exam) -> Figure:
    """Draw images generated for unseen prompts."""
    answers = exam.answers
    titles = [fill(caption.text, 35) for caption in answers.captions[:16]]
    return _grid(answers.images[:16], columns=4, titles=titles, title="Generated for unseen prompts")


def attention(exam: Exam) -> Figure:
    """Draw a few images, each beside the attention of five of its words."""
    answers = exam.answers
    long_captions = [i for i, caption in enumerate(answers.captions) if sum(map(bool, caption.parts)) >= 6]
    panels, titles = [], []
    for i in long_captions[:5]:
        image, caption = answers.images[i], answers.captions[i]
        placed = [k for k, parts in enumerate(caption.parts) if parts]  # words that describe a part
        chosen = [placed[j] for j in torch.linspace(0, len(placed) - 1, 5).round().long().tolist()]
        panels += [image, *(_brighten(image, answers.attention[i, k]) for k in chosen)]
        titles += ["", *(caption.words[k] for k in chosen)]
    return _grid(torch.stack(panels), columns=6, titles=titles, title="Attention of words, mean over the generation")


@torch.no_grad()
def restored(exam: Exam) -> Figure:
    """Draw rows of degraded, restored and true images."""
    sample = render_sample(BALANCED, 6, seed=11, size_px=2 * exam.backend.image_size_px)
    degraded = degrade_portraits(sample.renders.image, seed=12)
    rows = [
        F.interpolate(degraded, scale_factor=2, mode="nearest"),
        exam.backend.restorer.restore(degraded),
        sample.renders.image,
    ]
    return _grid(torch.cat(rows), columns=6, title="Degraded, restored, truth")


def _brighten(image: Float[Tensor, "3 h w"], attention: Float[Tensor, "k k"]) -> Float[Tensor, "3 h w"]:
    """Return the image, darkened where the word's attention is low."""
    light = F.interpolate(attention[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[0]
    return image.cpu() * (0.15 + 0.85 * light / light.max())


def _grid(images: Float[Tensor, "n 3 h w"], columns: int, title: str, titles: Sequence[str] = ()) -> Figure:
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, (1.6 + 0.35 * bool(titles)) * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(images[i].detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())
            axis.set_title(titles[i] if titles else "", fontsize=5)
    return figure
