"""The model card's pictures: what the world looks like, what the base draws, where its words look, what is restored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.factory.exam import Exam, degrade_portraits, draw_portraits
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
    """The training population: four people a row, two looks each."""
    drawn = draw_portraits(WEB, 12, seed=10, per_person=2)
    return _grid(drawn.renders.image, columns=8, title="Renders: pairs of pictures show one person in two looks")


def generated(exam: Exam) -> Figure:
    answers = exam.answers
    titles = [_wrap(caption.text, 34) for caption in answers.captions[:16]]
    return _grid(answers.images[:16], columns=4, titles=titles, title="Generated for unseen prompts")


def attention(exam: Exam) -> Figure:
    """A few images, each beside the attention of four of its words."""
    answers = exam.answers
    wanted = [i for i, caption in enumerate(answers.captions) if sum(map(bool, caption.parts)) >= 6][:5]
    panels, titles = [], []
    for i in wanted:
        image, caption = answers.images[i], answers.captions[i]
        spoken = [k for k, parts in enumerate(caption.parts) if parts]
        chosen = [spoken[j] for j in torch.linspace(0, len(spoken) - 1, 5).round().long().tolist()]
        panels += [image, *(_glow(image, answers.heat[i, k]) for k in chosen)]
        titles += ["", *(caption.words[k] for k in chosen)]
    return _grid(torch.stack(panels), columns=6, titles=titles, title="Where words look, mean over the generation")


@torch.no_grad()
def restored(exam: Exam) -> Figure:
    drawn = draw_portraits(BALANCED, 6, seed=11, size_px=2 * exam.backend.image_size_px)
    poor = degrade_portraits(drawn.renders.image, seed=12)
    rows = [
        F.interpolate(poor, scale_factor=2, mode="nearest"),
        exam.backend.restorer.restore(poor),
        drawn.renders.image,
    ]
    return _grid(torch.cat(rows), columns=6, title="Degraded, restored, truth")


def _glow(image: Float[Tensor, "3 h w"], heat: Float[Tensor, "k k"]) -> Float[Tensor, "3 h w"]:
    """The image, dark where the word does not look."""
    light = F.interpolate(heat[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[0]
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


def _wrap(text: str, width: int = 44) -> str:
    lines = [""]
    for word in text.split():
        lines = [*lines, word] if len(lines[-1]) + len(word) > width else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    return "\n".join(lines)
