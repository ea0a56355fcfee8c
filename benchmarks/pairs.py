"""Methods on pairs of subject and style: python -m benchmarks.pairs --pairs amara:kimono bruno:noir_suit.

Prints one row a method, over all images of all pairs, and writes every score as JSON. A finished pair
is not trained again when the command is repeated with the same --out.
"""

import json
from dataclasses import replace
from pathlib import Path

import tyro

from mcpkg import config
from mcpkg.backends import load_backend
from mcpkg.demo import SAMPLES, compare_methods, write_json
from mcpkg.portraits import load_portraits

METHODS = {
    name.lower().replace("_", "-"): value for name, value in vars(config).items() if isinstance(value, config.Method)
}
COLUMNS = ("identity", "identity_scaled", "identity_to_reference", "style", "leakage_source", "leakage_reference")
MORE = ("attention_mass_source", "attention_mass_reference")


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
        methods: names of methods, as in mcpkg.config.
        out: one JSON file per pair and method goes here, and summary.json.
        backend: which models.
        samples: holds subjects/ and styles/.
        seed: of training and images.
        n: images per pair.
        overrides: for experiments, in a folder of their own: JSON of fields of Method to replace, also
            "weights" (of LossWeights) and "phases" (a list, for methods of as many phases).
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise SystemExit(f"--methods: {unknown} unknown. Choose from {', '.join(METHODS)}.")
    models = load_backend(backend)
    rows = {name: [] for name in methods}
    for pair in pairs:
        subject, style = pair.split(":")
        who = load_portraits(samples / "subjects" / subject, models)
        look = load_portraits(samples / "styles" / style, models)
        for name in methods:
            path = out / f"{subject}-{style}-{name}-{seed}.json"
            if not path.is_file():
                method = vary(models.tune(METHODS[name]), json.loads(overrides))
                (outcome,) = compare_methods(models, who, look, [method], n, seed).values()
                write_json(outcome.as_dict(), path)
            rows[name].append(json.loads(path.read_text()))
            print(f"{pair} {name}: " + "  ".join(f"{c} {_text(rows[name][-1][c]['mean'])}" for c in COLUMNS + MORE))

    summary = {name: {column: _over_pairs(scores, column) for column in COLUMNS + MORE} for name, scores in rows.items()}
    write_json({"pairs": list(pairs), "seed": seed, "methods": summary}, out / "summary.json")
    width = max(map(len, methods))
    print("\nmeans over pairs\n" + " " * width + "".join(f"  {column:>24}" for column in COLUMNS + MORE))
    for name, means in summary.items():
        print(f"{name:<{width}}" + "".join(f"  {_text(means[column]):>24}" for column in COLUMNS + MORE))


def vary(method: config.Method, overrides: dict) -> config.Method:
    """The method with some fields replaced, in its phases and their weights as well."""
    method = config.with_weights(method, method.name, **overrides.pop("weights", {}))
    changes = overrides.pop("phases", [])
    if len(changes) == len(method.phases):
        phases = (replace(phase, **change) for phase, change in zip(method.phases, changes, strict=True))
        method = replace(method, phases=tuple(phases))
    return replace(method, **overrides)


def _over_pairs(scores: list[dict], column: str) -> float | None:
    """Mean over pairs, each pair weighing the same."""
    means = [row[column]["mean"] for row in scores if row[column]["mean"] is not None]
    return sum(means) / len(means) if means else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    tyro.cli(main)
