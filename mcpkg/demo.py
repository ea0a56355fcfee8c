"""Portraits of one person in one style, and what Attention Refocusing changes: python -m mcpkg.demo."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from mcpkg.adapter import Adapter
from mcpkg.backends import load_backend
from mcpkg.backends.base import Backend
from mcpkg.config import MAGICAPTURE, WITHOUT_REFOCUSING, Method
from mcpkg.errors import one_line_errors
from mcpkg.evaluate import Scores, evaluate_portraits, score_table
from mcpkg.files import write_json
from mcpkg.generate import Generated, generate_portraits
from mcpkg.portraits import Portraits, find_images, load_portraits
from mcpkg.trainer import personalise
from mcpkg.visualize import attention_sheet, portraits_sheet, save_figure

SAMPLES = Path("data_samples")


@dataclass(frozen=True)
class Outcome:
    """What one method made of one pair."""

    adapter: Adapter
    generated: Generated
    scores: Scores
    seconds: float
    """Training, generation and scoring together."""

    def as_dict(self) -> dict:
        """Ready for JSON."""
        return self.scores.as_dict() | {
            "seconds": round(self.seconds, 1),
            "seconds_training": self.adapter.record["seconds"],
            "faceless_images_in_training": self.adapter.record["faceless_images"],
        }


def compare_methods(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    methods: Sequence[Method],
    n: int = 8,
    seed: int = 0,
    precision: str = "fp32",
) -> dict[str, Outcome]:
    """Train each method on the same pair and draw the same seeds with each: name -> outcome."""
    outcomes = {}
    for method in methods:
        start = time.perf_counter()
        adapter = personalise(backend, source, reference, method, seed, precision=precision)
        generated = generate_portraits(backend, adapter, n=n, seed=seed, capture=True)
        scores = evaluate_portraits(backend, generated, source, reference, seed)
        outcomes[method.name] = Outcome(adapter, generated, scores, time.perf_counter() - start)
    return outcomes


def check_input(folders: Sequence[Path], out: Path, n: int) -> None:
    """What can be told before anything is loaded or trained; makes the folder `out`.

    Raises:
        ValueError: n is below 1.
        OSError: a folder is missing or holds no image, or `out` cannot be made.
    """
    if n < 1:
        raise ValueError(f"--n: {n} is below 1. Ask for at least one portrait.")
    for folder in folders:
        find_images(folder)
    out.mkdir(parents=True, exist_ok=True)


def main(
    source: Path | None = None,
    reference: Path | None = None,
    out: Path = Path("runs/demo"),
    backend: str = "mini",
    seed: int = 0,
    n: int = 8,
) -> None:
    """Personalise on a pair, with and without Attention Refocusing, and write sheets and scores.

    Args:
        source: folder with photos of one person; by default the first of the samples.
        reference: folder with portraits in one style; by default the first of the samples.
        out: where portraits.png, attention.png, scores.json and the adapter go.
        backend: which models.
        seed: of training; image i starts from seed + i.
        n: how many portraits.
    """
    source, reference = source or _first("subjects"), reference or _first("styles")
    check_input((source, reference), out, n)
    models = load_backend(backend)
    who, look = load_portraits(source, models), load_portraits(reference, models)
    full, ablated = (models.tune(method) for method in (MAGICAPTURE, WITHOUT_REFOCUSING))
    outcomes = compare_methods(models, who, look, (full, ablated), n, seed)

    best = outcomes[full.name]
    best.adapter.save(out / "adapter")
    restored = models.restorer.restore(best.generated.images)
    save_figure(portraits_sheet(who, look, best.generated, restored, best.scores), out / "portraits.png")
    rows = {"without AR": outcomes[ablated.name], "with AR": best}
    sheet = attention_sheet({label: (outcome.generated, outcome.scores) for label, outcome in rows.items()})
    save_figure(sheet, out / "attention.png")
    summary = {"source": str(source), "reference": str(reference), "seed": seed, "prompt": best.generated.prompt}
    summary["methods"] = {name: outcome.as_dict() for name, outcome in outcomes.items()}
    write_json(summary, out / "scores.json")
    print(score_table({name: outcome.scores for name, outcome in outcomes.items()}))
    print(f"\n{out / 'portraits.png'}  {out / 'attention.png'}  {out / 'scores.json'}")


def _first(kind: str) -> Path:
    folders = sorted(path for path in (SAMPLES / kind).glob("*") if path.is_dir())
    if not folders:
        missing = f"{SAMPLES / kind}: no samples."
        raise FileNotFoundError(f"{missing} Run in the repository's folder, or give --source and --reference.")
    return folders[0]


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m mcpkg.demo")
