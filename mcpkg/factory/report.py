"""Measure the built-in models and write their model card: python -m mcpkg.factory.report.

Exits with 1 if a bar is missed, with 2 and one line if nothing could be measured.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tqdm import tqdm

from mcpkg.backends import load_backend
from mcpkg.backends.mini.backend import WEIGHTS
from mcpkg.factory.exam import Bar, Exam
from mcpkg.factory.measure import MEASUREMENTS
from mcpkg.factory.setting import read_metadata
from mcpkg.factory.sheets import write_sheets
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import replace_whole

CARD = WEIGHTS.parent / "MODEL_CARD.md"
MIB = 2**20

INTENDED_USE = """## Intended use

Teaching, tests and research on personalisation where ground truth is needed: every training image was
rendered, so its identity, style, part masks and landmarks are known.

## Limits

- **They draw a toy world.** No model here was trained on photographs, and no number here predicts a number on
  photographs.
- **Grounding is supervised.** Each word's attention was trained with the true mask of its part; in Stable Diffusion
  such grounding emerges from scale. So attention lessons show what refocusing does to maps that are good already,
  not how good maps emerge.
- **The bias is on purpose.** The population `WEB` over-represents light skin (half of its people have one of the
  three lightest Monk tones) and puts wedding dresses almost only on feminine-presenting faces. `BALANCED` does not.
- **`mini-balanced` was fine-tuned from `mini`.** It was trained further on portraits of `BALANCED`, not from random
  weights, so it may still have some of the bias of `WEB`.
- **The evaluation models were trained on the same renderer.** Style reader, parser and identity scorer were trained
  on renders, some of them degraded so that the models also work on generated images; their errors on generated
  images are unknown.
- **The identity scorer is similar to the trainer.** Same kind of data, same architecture; only seed and width
  differ. What fools one may fool the other.
- **The vocabulary is small.** Each word of the portrait grammar is one token. Any other word is split into pieces that
  no model here was trained on, and some words that are tokens (smiling, very, digits) are in no caption: their effect
  on the image is arbitrary.
"""


def run_measurements(names: Sequence[str], exam: Exam) -> list[Bar]:
    """Run the named measurements and return their bars in the same order."""
    bars: list[Bar] = []
    for name in tqdm(names, desc="measuring"):
        bars += MEASUREMENTS[name](exam)
    return bars


def describe_bar(bar: Bar) -> str:
    """Return the bar as text, e.g. ">= 30"; empty if the number is only reported."""
    parts = [f">= {bar.at_least:g}"] if bar.at_least is not None else []
    parts += [f"<= {bar.at_most:g}"] if bar.at_most is not None else []
    return " and ".join(parts)


def read_weights_provenance(weights: Path) -> list[dict[str, str]]:
    """Return one row for each safetensors file: name, size and what its metadata record of its training."""
    rows = []
    for path in sorted(weights.rglob("*.safetensors")):
        metadata = read_metadata(path)
        keys = ("recipe", "population", "seed", "steps", "hours", "machine", "commit", "started_from")
        row = {key: metadata.get(key, "") for key in keys}
        rows.append({"file": path.relative_to(weights).as_posix(), "MiB": f"{path.stat().st_size / MIB:.2f}"} | row)
    return rows


def write_card(
    bars: Sequence[Bar], provenance: Sequence[dict[str, str]], sheets: Sequence[Path], seconds: float
) -> str:
    """Return the model card in Markdown."""
    quality = [
        {
            "what": bar.name,
            "measured": f"{bar.value:.3f}",
            "bar": describe_bar(bar),
            "": "" if bar.passed else "**missed**",
        }
        for bar in bars
    ]
    total = sum(float(row["MiB"]) for row in provenance)
    pictures = "\n".join(f"![{sheet.stem.replace('_', ' ')}]({sheet.parent.name}/{sheet.name})" for sheet in sheets)
    return "\n".join([
        "# Model card: mcpkg mini",
        "",
        "A latent text-to-image diffusion model for rendered portraits, and the models that judge its images.",
        f"Written by `python -m mcpkg.factory.report` in {seconds / 60:.0f} minutes with torch {torch.__version__}.",
        "",
        "## Measured on unseen people, looks and prompts",
        "",
        table(quality),
        "",
        "A word's attention is the mean over heads, finest-grid layers and timesteps of one guided generation; its",
        "part is what the face parser finds in the generated image. *Covered* is the fraction of the part's area where",
        "the attention is above the map's mean.",
        "",
        f"## Weights and training ({total:.1f} MiB in all)",
        "",
        table([{key: value for key, value in row.items() if any(r[key] for r in provenance)} for row in provenance]),
        "",
        "`python -m mcpkg.factory.train RECIPE` trains a model from random weights. For a model that was started from",
        "other weights (`--start`), the column started_from names them, and steps and hours are counted from there; a",
        "training from random weights gives other numbers.",
        "",
        INTENDED_USE,
        "## Sample sheets",
        "",
        pictures,
        "",
    ])  # fmt: skip


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return a Markdown table with the keys of the first row as its header."""
    if not rows:
        return "(none)"
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(only: str = "", as_json: Annotated[bool, tyro.conf.arg(name="json")] = False, prompts: int = 256) -> None:
    """Measure the models on unseen seeds; a full run also writes MODEL_CARD.md and its sample sheets.

    Args:
        only: names of measurements to run, separated by commas; then nothing is written.
        as_json: print the numbers as JSON instead of a table.
        prompts: number of prompts for the base model.
    """
    names = only.split(",") if only else list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise ValueError(f"--only: no measurement named {unknown[0]!r}. Choose from {', '.join(MEASUREMENTS)}.")
    if prompts < 1:
        raise ValueError(f"--prompts: {prompts} is below 1.")
    start = time.perf_counter()
    exam = Exam(load_backend("mini"), prompts)
    bars = run_measurements(names, exam)
    if not only:
        sheets = write_sheets(exam, CARD.parent / "model_card")
        card = write_card(bars, read_weights_provenance(WEIGHTS), sheets, time.perf_counter() - start)
        with replace_whole(CARD) as partial:
            partial.write_text(card)
    if as_json:
        rows = [
            asdict(bar) | {"value": bar.value if math.isfinite(bar.value) else None} for bar in bars
        ]  # JSON has no NaN
        print(json.dumps({"passed": all(bar.passed for bar in bars), "bars": rows}, indent=1))
    else:
        for bar in bars:
            print(f"{'ok  ' if bar.passed else 'MISS'} {bar.value:9.3f}  {describe_bar(bar):8}  {bar.name}")
    sys.exit(0 if all(bar.passed for bar in bars) else 1)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m mcpkg.factory.report", config=(tyro.conf.FlagCreatePairsOff,))
