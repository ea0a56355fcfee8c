"""Methods on pairs of subject and style: python -m benchmarks.pairs --pairs amara:kimono bruno:noir_suit.

A grid (`mcpkg grid`) with a summary: one row a method, the mean over pairs, and how far the first method is from each
other one, pair by pair, with an interval over pairs.
"""

import json
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from mcpkg.backends import load_backend, tune_without_models
from mcpkg.cli.demo import SAMPLES, check_input
from mcpkg.inference.sampling import Sampling
from mcpkg.method import config
from mcpkg.method.methods import METHODS
from mcpkg.method.variations import with_refocusing, with_weights
from mcpkg.metrics.grid import Cell, Grid, Row, run_grid, start_processes
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import write_json
from mcpkg.util.statistics import bootstrap_interval
from mcpkg.viz.grid_overview import write_overview

COLUMNS = ("identity", "identity_scaled", "identity_to_reference", "style", "leakage_source", "leakage_reference")
MORE = ("attention_mass_source", "attention_mass_reference")
COMPARED = ("identity_scaled", "style", "leakage_source")


def main(
    pairs: tuple[str, ...] = ("amara:kimono", "bruno:noir_suit", "clara:spacesuit", "daichi:wedding"),
    methods: tuple[str, ...] = ("magicapture", "without-refocusing", "custom-diffusion"),
    out: Path = Path("runs/pairs"),
    backend: str = "mini",
    samples: Path = SAMPLES,
    seed: int = 0,
    n: int = 8,
    overrides: str = "{}",
    workers: int = 1,
) -> None:
    """Train and score every method on every pair.

    Args:
        pairs: subject:style, folders of the samples.
        methods: names of methods, as in mcpkg.method.methods.METHODS.
        out: folder of the grid, and of summary.json.
        backend: which models.
        samples: holds subjects/ and styles/.
        seed: of training and images.
        n: images per pair.
        overrides: for experiments, in a folder of their own: JSON of fields of Method to replace, also
            "weights" (of LossWeights), "refocusing" (of Refocusing) and "phases" (a list of fields to replace, one
            entry a phase).
        workers: how many cells to work on at a time.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(f"--methods: {unknown or 'none given'}. Choose from {', '.join(METHODS)}.")
    tuned = {name: vary(tune_without_models(backend, METHODS[name]), overrides) for name in methods}
    folders = [find_pair(pair, samples) for pair in pairs]
    check_input([folder for both in folders for folder in both], n)
    sampling = Sampling(n=n, seed=seed)
    cells = tuple(Cell(method, *pair, seed, sampling) for method in tuned.values() for pair in folders)
    grid = Grid(cells, out, partial(load_backend, backend), write_overview)
    rows = scores_by_method(run_grid(grid, partial(start_processes, workers=workers)), methods)

    summary = {
        name: {column: _over_pairs(scores, column) for column in COLUMNS + MORE} for name, scores in rows.items()
    }
    first, *others = methods
    minus = {name: differences_over_pairs(rows[first], rows[name], seed) for name in others}
    differences = {"of": first, "minus": minus}
    write_json(
        {"pairs": list(pairs), "seed": seed, "methods": summary, "differences": differences}, out / "summary.json"
    )
    width = max(map(len, methods))
    print("\nmeans over pairs\n" + " " * width + "".join(f"  {column:>24}" for column in COLUMNS + MORE))
    for name, means in summary.items():
        print(f"{name:<{width}}" + "".join(f"  {_text(means[column]):>24}" for column in COLUMNS + MORE))
    for name, of_columns in minus.items():
        for column, difference in of_columns.items():
            mean, low, high = (_text(difference[key]) for key in ("mean", "low", "high"))
            print(f"{first} minus {name}: {column} {mean} [{low}, {high}] over {difference['n']} pairs")


def differences_over_pairs(ours: list[dict], theirs: list[dict], seed: int) -> dict[str, dict]:
    """Mean difference of two methods' scores over the same pairs, with a 95 % bootstrap interval over pairs.

    Of few pairs such an interval is too narrow: of four, all on one side of 0 by chance one time in eight.
    """
    rng = torch.Generator().manual_seed(seed)

    def values(scores: list[dict], column: str) -> Tensor:
        return torch.tensor([math.nan if row[column]["mean"] is None else row[column]["mean"] for row in scores])

    return {
        column: {
            name: None if math.isnan(value) else value
            for name, value in asdict(bootstrap_interval(values(ours, column) - values(theirs, column), rng)).items()
        }
        for column in COMPARED
    }


def scores_by_method(rows: list[Row], methods: tuple[str, ...]) -> dict[str, list[dict]]:
    """The scores of every pair, in order, of each method.

    Args:
        rows: all pairs with the first method, then all with the second, and so on.

    Raises:
        ValueError: a cell has failed.
    """
    if failed := [row for row in rows if row.kept is None]:
        raise ValueError(f"{', '.join(failed[0].names)}: {failed[0].error} {len(failed)} cells have failed.")
    pairs = len(rows) // len(methods)
    return {
        name: [row.kept.scores for row in rows[number * pairs : (number + 1) * pairs]]
        for number, name in enumerate(methods)
    }


def find_pair(pair: str, samples: Path) -> tuple[Path, Path]:
    """Folders of the source and the reference of "subject:style".

    Raises:
        ValueError: the pair is written otherwise.
    """
    subject, _, style = pair.partition(":")
    if not subject or not style or ":" in style:
        raise ValueError(f"--pairs: {pair!r} is not subject:style, such as amara:kimono.")
    return samples / "subjects" / subject, samples / "styles" / style


def vary(method: config.Method, overrides: str) -> config.Method:
    """The method with some fields replaced, in its phases and their weights as well.

    Raises:
        ValueError: the overrides are not JSON of such fields, or not of as many phases.
    """
    try:
        changes = json.loads(overrides)
        method = with_weights(method, method.name, **changes.pop("weights", {}))
        method = with_refocusing(method, method.name, **changes.pop("refocusing", {}))
        per_phase = changes.pop("phases", [{}] * len(method.phases))
        if len(per_phase) != len(method.phases):
            raise ValueError(f"{len(per_phase)} phases given, {method.name} has {len(method.phases)}.")
        phases = tuple(replace(phase, **change) for phase, change in zip(method.phases, per_phase, strict=True))
        return replace(method, phases=phases, **changes)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"--overrides: {error}") from None


def _over_pairs(scores: list[dict], column: str) -> float | None:
    """Mean over pairs, each pair weighing the same."""
    means = [row[column]["mean"] for row in scores if row[column]["mean"] is not None]
    return sum(means) / len(means) if means else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.pairs")
