"""Methods on pairs of subject and style: python -m benchmarks.pairs --pairs amara:kimono bruno:noir_suit.

Prints one row a method, the mean over pairs, and how far the first method is from each other one, pair by pair, with
an interval over pairs. Writes every score as JSON with the settings it was made with, and a sheet of the portraits.
A pair that is finished under the same settings is not trained again when the command is repeated.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from mcpkg.backends import load_backend
from mcpkg.cli.demo import SAMPLES, check_input
from mcpkg.data.portraits import load_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method import config
from mcpkg.method.methods import METHODS
from mcpkg.metrics.compare import compare_methods
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import write_json
from mcpkg.util.images import save_figure
from mcpkg.util.statistics import bootstrap_interval
from mcpkg.viz.sheets import portraits_sheet

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
) -> None:
    """Train and score every method on every pair.

    Args:
        pairs: subject:style, folders of the samples.
        methods: names of methods, as in mcpkg.method.methods.METHODS.
        out: one JSON file per pair and method goes here, and summary.json; a file of other settings is replaced.
        backend: which models.
        samples: holds subjects/ and styles/.
        seed: of training and images.
        n: images per pair.
        overrides: for experiments, in a folder of their own: JSON of fields of Method to replace, also
            "weights" (of LossWeights), "refocusing" (of Refocusing) and "phases" (a list of fields to replace, one
            entry a phase).
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(f"--methods: {unknown or 'none given'}. Choose from {', '.join(METHODS)}.")
    for name in methods:
        vary(METHODS[name], overrides)  # fails now rather than after the first training
    folders = {pair: find_pair(pair, samples) for pair in pairs}
    check_input([folder for both in folders.values() for folder in both], n)
    models = load_backend(backend)
    rows = {name: [] for name in methods}
    for pair, (source, reference) in folders.items():
        who, look = load_portraits(source, models), load_portraits(reference, models)
        for name in methods:
            path = out / f"{pair.replace(':', '-')}-{name}-{seed}.json"
            method = vary(models.tune(METHODS[name]), overrides)
            settings = {"backend": backend, "source": str(source), "reference": str(reference), "seed": seed, "n": n}
            settings["method"] = config.to_dict(method)
            if not is_finished(path, settings):
                (outcome,) = compare_methods(models, who, look, [method], seed, Sampling(n=n, seed=seed)).values()
                save_figure(
                    portraits_sheet(who, look, outcome.generated, scores=outcome.scores), path.with_suffix(".png")
                )
                write_json({"settings": settings} | outcome.as_dict(), path)
            rows[name].append(json.loads(path.read_text()))
            print(f"{pair} {name}: " + "  ".join(f"{c} {_text(rows[name][-1][c]['mean'])}" for c in COLUMNS + MORE))

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


def find_pair(pair: str, samples: Path) -> tuple[Path, Path]:
    """Folders of the source and the reference of "subject:style".

    Raises:
        ValueError: the pair is written otherwise.
    """
    subject, _, style = pair.partition(":")
    if not subject or not style or ":" in style:
        raise ValueError(f"--pairs: {pair!r} is not subject:style, such as amara:kimono.")
    return samples / "subjects" / subject, samples / "styles" / style


def is_finished(path: Path, settings: dict) -> bool:
    """Whether the file's scores were made with these settings."""
    return path.is_file() and json.loads(path.read_text()).get("settings") == json.loads(json.dumps(settings))


def vary(method: config.Method, overrides: str) -> config.Method:
    """The method with some fields replaced, in its phases and their weights as well.

    Raises:
        ValueError: the overrides are not JSON of such fields, or not of as many phases.
    """
    try:
        changes = json.loads(overrides)
        method = config.with_weights(method, method.name, **changes.pop("weights", {}))
        method = config.with_refocusing(method, method.name, **changes.pop("refocusing", {}))
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
