"""Sheets of pictures for slides: portraits, attention maps, masks and training losses."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mcpkg.data.mask_check import MaskFinding
from mcpkg.data.portraits import Portraits
from mcpkg.inference.generate import Generated
from mcpkg.training.keep_best import CheckpointScore, best_of
from mcpkg.util.images import overlay, to_pixels
from mcpkg.viz.figures import curves

if TYPE_CHECKING:
    from mcpkg.metrics.knockout_results import Knockout
    from mcpkg.metrics.scores import Scores

CELL_IN = 1.35
"""Side of one picture on a sheet, in inches."""
MASK_CELL_IN = 1.8
"""Side of one picture on a sheet of mask checks, in inches."""
MASK_TINT = torch.tensor([1.0, 0.2, 0.1])
LABEL_COLUMNS = 5
"""Least number of pictures side by side whose width holds the label of a knock-out."""
LOSS_COLUMNS = 3
"""Panels side by side on a sheet of losses."""


def portraits_sheet(
    source: Portraits | None,
    reference: Portraits | None,
    generated: Generated,
    restored: Float[Tensor, "n 3 H W"] | None = None,
    scores: "Scores | None" = None,
) -> Figure:
    """Draw rows of pictures: source and reference unless they are None, results, and the results restored."""
    given = {"source": source, "reference": reference}
    rows = {role: portraits.images for role, portraits in given.items() if portraits is not None}
    rows["result"] = generated.images
    if restored is not None:
        rows["restored"] = restored
    columns = max(len(images) for images in rows.values())
    figure, axes = _grid(len(rows), columns)
    for axes_row, (label, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(axes_row, images):  # rows may be shorter than the widest
            axis.imshow(to_pixels(image))
        _label(axes_row[0], label)
    if scores is not None:
        figure.suptitle(
            f"identity {scores.identity.mean:.2f} (own photos {scores.identity_among_source:.2f}, "
            f"strangers {scores.identity_of_strangers:.2f})    "
            f"style {scores.style.mean:.2f} (references among themselves {scores.style_among_references:.2f})"
        )
    return figure


def attention_sheet(
    rows: Mapping[str, tuple[Generated, "Scores"]],
    tokens: Mapping[str, str] | None = None,
    columns: int = 2,
) -> Figure:
    """Draw one row per method for the same seeds: the image, then each placeholder's attention over it.

    Args:
        rows: label -> images with their maps, and their scores.
        tokens: role in the maps, "source" first -> its placeholder's name in the titles.
        columns: number of images to show.
    """
    tokens = tokens or {"source": "[V1]", "reference": "[V2]"}
    width = 1 + len(tokens)
    figure, axes = _grid(len(rows), columns * width)
    for axes_row, (label, (generated, scores)) in zip(axes, rows.items(), strict=True):
        _label(axes_row[0], label)
        for index in range(min(columns, len(generated.images))):
            cells = axes_row[index * width : (index + 1) * width]
            cells[0].imshow(to_pixels(generated.images[index]))
            cells[0].set_title(f"seed {generated.seeds[index]}", fontsize=8)
            for cell, (role, token) in zip(cells[1:], tokens.items(), strict=True):
                cell.imshow(overlay(generated.images[index], generated.maps.heatmap(role)[index]))
                cell.set_title(f"{token}: leakage {scores.images.leakage[role][index]:.2f}", fontsize=8)
    means = ", ".join(f"{scores.leakage_source.mean:.2f} {label}" for label, (_, scores) in rows.items())
    figure.suptitle(fill(f"fraction of {tokens['source']}'s attention outside the face: {means}", 70))
    return figure


def knockout_sheet(source: Portraits, reference: Portraits, knockout: "Knockout", columns: int = 8) -> Figure:
    """Draw rows of pictures: source, reference, portraits untouched and under each intervention, with numbers.

    Args:
        columns: number of pictures of each row to show.
    """
    untouched = f"untouched: identity {knockout.identity.mean:.2f}, style {knockout.style.mean:.2f}"
    rows = {"source": source.images, "reference": reference.images, untouched: knockout.untouched.images}
    leaks = {role: f"{token}: leakage {knockout.leakage(role).mean:.0%}" for role, token in knockout.tokens.items()}
    for effect in knockout.effects:
        share = f"{effect.causal_share.mean:z.0%}" if effect.causal_share else "an undefined part"
        label = (
            f"{knockout.tokens[effect.role]}, {effect.intervention}: {share} of {effect.stands_for} lost; identity "
            f"{effect.identity.mean:.2f}, style {effect.style.mean:.2f}; changed: {effect.changed_face:.0%} of the "
            f"face, {effect.changed_rest:.0%} of the rest"
        )
        rows[label] = knockout.images[effect.role, effect.intervention]
        if effect.intervention == "outside":
            leaks[effect.role] += f", which causes {share} of {effect.stands_for}"
    columns = max(LABEL_COLUMNS, min(columns, max(len(images) for images in rows.values())))
    figure = Figure(figsize=(columns * CELL_IN, len(rows) * (CELL_IN + 0.25) + 0.5), layout="constrained")
    subfigures = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for subfigure, (label, images) in zip(subfigures, rows.items(), strict=True):
        subfigure.suptitle(label, fontsize=8, x=0.01, ha="left")
        for axis, image in zip(_bare(subfigure.subplots(1, columns, squeeze=False))[0], images):
            axis.imshow(to_pixels(image))
    figure.suptitle("\n".join(leaks.values()), fontsize=10)
    return figure


def masks_sheet(portraits: Portraits, masks: Float[Tensor, "n 1 h w"]) -> Figure:
    """Draw each image with everything outside its mask dimmed. Look at it before you train."""
    figure, axes = _grid(1, len(portraits))
    for axis, image, mask in zip(axes[0], portraits.images, masks, strict=True):
        axis.imshow(to_pixels(image * (0.2 + 0.8 * mask)))
    return figure


def mask_check_sheet(portraits: Portraits, findings: list[MaskFinding]) -> Figure:
    """Draw one row per image: the mask over it in red, at the size of pixels, of latents and of attention maps."""
    figure = Figure(figsize=(3 * MASK_CELL_IN + 2.4, len(findings) * (MASK_CELL_IN + 0.35) + 0.6), layout="constrained")
    rows = figure.subfigures(len(findings), 1, squeeze=False)[:, 0]
    for subfigure, image, finding in zip(rows, portraits.images, findings, strict=True):
        for axis, (name, fraction) in zip(subfigure.subplots(1, 3), finding.coverage.items(), strict=True):
            mask = getattr(finding, name)
            axis.imshow(_tinted(image, mask))
            axis.set_title(f"{name} {mask.shape[-1]} x {mask.shape[-2]}: {fraction:.0%}", fontsize=8)
            axis.set_axis_off()
        subfigure.suptitle("\n".join(finding.warnings) or finding.path.name, fontsize=7, wrap=True,
                           color="firebrick" if finding.warnings else "black")  # fmt: skip
    warned = sum(bool(finding.warnings) for finding in findings)
    counted = f"{warned} of {len(findings)} masks have a warning" if warned else f"{len(findings)} masks, no warnings"
    figure.suptitle(counted)
    return figure


def loss_sheet(histories: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Draw one panel per loss term: every step pale, the moving mean over it, a dashed line where a phase begins.

    Args:
        histories: method -> its training steps in order, as StepReport's fields.
    """
    terms = list(dict.fromkeys(term for steps in histories.values() for step in steps for term in step["terms"]))
    rows = -(-max(1, len(terms)) // LOSS_COLUMNS)
    figure = Figure(figsize=(3 * LOSS_COLUMNS, 2.2 * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, LOSS_COLUMNS, squeeze=False).flat)
    for axis, term in zip(axes, terms):
        for number, (label, steps) in enumerate(histories.items()):
            at = np.array([i for i, step in enumerate(steps) if term in step["terms"]])
            values = np.array([step["terms"][term] for step in steps if term in step["terms"]])
            axis.plot(at, values, color=f"C{number}", alpha=0.25, linewidth=0.7)
            axis.plot(at, moving_mean(values), color=f"C{number}", linewidth=1.5, label=label)
            for begins in (i for i, step in enumerate(steps) if i and step["step"] == 0):
                axis.axvline(begins, color="grey", linestyle="--", linewidth=0.8)
        axis.set_title(term, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
    for axis in axes[len(terms) :]:
        axis.set_axis_off()
    if len(histories) > 1 and terms:
        figure.axes[0].legend(fontsize=7)
    return figure


def checkpoint_curve(scores: Sequence[CheckpointScore]) -> Figure:
    """Draw the score of each checkpoint over its step, and a dashed line at the best; without a score, a gap."""
    best, by = best_of(scores), scores[0].by.replace("_", " ")
    figure = curves(
        [one.step for one in scores], {by: [np.nan if one.score is None else one.score for one in scores]},
        f"{by} is highest at step {best.step}", "step", by,
    )  # fmt: skip
    figure.axes[0].axvline(best.step, color="grey", linestyle="--", linewidth=0.8)
    return figure


def moving_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the mean over a window of a tenth of all values around each one, smaller at both ends."""
    half = len(values) // 20
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([window.mean() for window in windows])


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    # Figure instead of pyplot: works without a display, and no figure stays open
    figure = Figure(figsize=(columns * CELL_IN + 0.4, rows * (CELL_IN + 0.1) + 0.4), layout="constrained")
    return figure, _bare(figure.subplots(rows, columns, squeeze=False))


def _bare(axes: np.ndarray) -> np.ndarray:
    """The same axes, without ticks and frames."""
    for axis in axes.flat:
        axis.set_axis_off()
    return axes


def _label(axis, text: str) -> None:
    style = {"rotation": 90, "va": "center", "ha": "right", "multialignment": "center", "fontsize": 10}
    axis.text(-0.06, 0.5, fill(text, 16), transform=axis.transAxes, **style)


def _tinted(image: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 k l"]) -> np.ndarray:
    """Return the image in grey with the mask over it in red: h w 3."""
    opacity = functional.interpolate(mask[None].float(), image.shape[-2:])[0]  # 1 h w, with visible cells
    grey = image.mean(dim=0, keepdim=True).clamp(0, 1)
    tint = MASK_TINT.to(image)[:, None, None]
    return (grey * (1 - 0.6 * opacity) + tint * 0.6 * opacity).permute(1, 2, 0).cpu().numpy()
