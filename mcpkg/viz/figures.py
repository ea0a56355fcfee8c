"""Plain figures for a lesson: pictures, small tensors with their numbers, curves and bars; the title is the result."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.util.images import to_pixels
from mcpkg.util.statistics import Interval

WIDTH_IN = 7.0
CELL_IN = 1.3
"""Side of one picture, in inches."""
LETTERS_PER_IN = 11  # of a title


def picture_rows(
    rows: Mapping[str, Sequence | Tensor],
    title: str = "",
    captions: Mapping[str, Sequence[str]] | None = None,
    cell_in: float = CELL_IN,
) -> Figure:
    """Draw one labelled row of pictures for each entry.

    Args:
        rows: label -> pictures: images (3 h w), masks or maps (h w or 1 h w), or pixels (h w 3) as returned by
            `mcpkg.util.images.overlay`.
        title: the result that the figure shows, with the measured number.
        captions: label -> the text above each picture of that row.
        cell_in: side of one picture, in inches.
    """
    captions = captions or {}
    columns = max(len(pictures) for pictures in rows.values())
    height = cell_in + (0.25 if captions else 0.1)
    figure = Figure(figsize=(columns * cell_in + 0.6, len(rows) * height + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axes_row, (label, pictures) in zip(axes, rows.items(), strict=True):
        axes_row[0].text(-0.06, 0.5, label, rotation=90, va="center", ha="right", transform=axes_row[0].transAxes)
        for axis, picture, caption in zip(axes_row, pictures, [*captions.get(label, ()), *[""] * columns]):
            axis.imshow(_as_pixels(picture), vmin=0, cmap="magma", interpolation="nearest")
            axis.set_title(caption, fontsize=8)
    _set_title(figure, title)
    return figure


def number_grids(grids: Mapping[str, Float[Tensor, "h w"]], title: str = "", digits: int = 2) -> Figure:
    """Draw small matrices side by side, every value written into its cell, so that one can check them by hand.

    All have one colour scale: blue below zero, red above.
    """
    largest = max(grid.abs().max().item() for grid in grids.values()) or 1.0
    figure = Figure(figsize=(len(grids) * 2.6, 3.0), layout="constrained")
    for axis, (label, grid) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True):
        values = grid.detach().cpu().float().numpy()
        axis.imshow(values, vmin=-largest, vmax=largest, cmap="RdBu_r")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 0.6 * largest else "black"
            axis.text(column, row, f"{value:z.{digits}f}", ha="center", va="center", fontsize=8, color=colour)
        axis.set_title(label, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    _set_title(figure, title)
    return figure


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float | Interval]], title: str = "", x_label: str = "",
    y_label: str = "",
) -> Figure:  # fmt: skip
    """Draw one line for each entry over x; intervals are drawn as bars around their mean."""
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    axis = figure.subplots()
    for label, values in lines.items():
        axis.errorbar(x, *_means_and_errors(values), marker="o", markersize=4, capsize=3, label=label)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    if len(lines) > 1:
        axis.legend(fontsize=8)
    _set_title(figure, title)
    return figure


def bars(groups: Mapping[str, Mapping[str, float | Interval]], title: str = "", y_label: str = "") -> Figure:
    """Draw bars side by side: for every name on the x axis, one bar of each group, with intervals where given.

    Args:
        groups: group -> name -> value, e.g. method -> score -> Interval. All groups have the same names.
    """
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    axis, width = figure.subplots(), 0.8 / len(groups)
    names = list(next(iter(groups.values())))
    for number, (label, values) in enumerate(groups.items()):
        means, errors = _means_and_errors([values[name] for name in names])
        at = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        axis.bar(at, means, width, yerr=errors, capsize=3, label=label)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xticks(range(len(names)), names, fontsize=9)
    axis.set_ylabel(y_label)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=len(groups), fontsize=8)  # beside the bars, not over them
    _set_title(figure, title)
    return figure


def _set_title(figure: Figure, title: str) -> None:
    """Set the title, broken into lines that fit the figure's width."""
    figure.suptitle(fill(title, int(LETTERS_PER_IN * figure.get_figwidth())), fontsize=11)


def _as_pixels(picture: Shaped[Tensor, "..."] | np.ndarray) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        return picture
    if picture.ndim == 3 and len(picture) == 3:
        return to_pixels(picture)
    return picture.detach().cpu().float().numpy().reshape(picture.shape[-2:])


def _means_and_errors(values: Sequence[float | Interval]) -> tuple[list[float], list[list[float]] | None]:
    """Return the means, and the distances to the lower and upper ends of their intervals; None without intervals."""
    means = [value.mean if isinstance(value, Interval) else value for value in values]
    if not any(isinstance(value, Interval) for value in values):
        return means, None
    intervals = [v if isinstance(v, Interval) else Interval(v, v, v, 1) for v in values]
    return means, [[v.mean - v.low for v in intervals], [v.high - v.mean for v in intervals]]
