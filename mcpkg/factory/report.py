"""Measure the small models and write their model card: python -m mcpkg.factory.report.

Exits with 1 when a bar is missed, with 2 and one line when nothing could be measured.
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
from safetensors import safe_open
from tqdm import tqdm

from mcpkg.backends import load_backend
from mcpkg.backends.mini.backend import WEIGHTS
from mcpkg.factory.exam import Exam
from mcpkg.factory.measure import MEASUREMENTS, Bar
from mcpkg.factory.sheets import write_sheets
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import replace_whole

CARD = WEIGHTS.parent / "MODEL_CARD.md"
MIB = 2**20

INTENDED_USE = """## Intended use

Teaching, tests and research on personalisation where ground truth is wanted: every training image was
rendered, so its identity, style, part masks and landmarks are known.

## Limits

- **They draw a toy world.** Nothing here knows a photograph, and no number here predicts one on photographs.
- **Grounding is supervised.** Each word's attention was trained onto its own part with the true masks;
  in Stable Diffusion such grounding emerges from scale. So attention lessons show what refocusing does
  to maps that are good to begin with, not how good maps come about.
- **The bias is on purpose.** The population `WEB` over-represents light skin (half of its people have one of the
  three lightest Monk tones) and puts wedding dresses almost only on feminine-presenting faces. `BALANCED` does not.
- **`mini-balanced` began as `mini`.** It was trained on with portraits of `BALANCED`, not from nothing, so that what it
  may still know of `WEB` is not ruled out.
- **The judges share the renderer.** Style reader, parser and identity scorer were trained on renders, and on
  damaged ones so that they hold on generated images, but their errors there cannot be counted.
- **The identity scorer is a sibling of the trainer.** Same kind of data, same architecture; only seed and width
  differ. What fools one may fool the other.
- **Words are few.** Each word of the portrait grammar is one token. Any other word is spelled in pieces that no
  model here was trained on, and some words that are tokens (smiling, very, digits) no caption says either: what
  these do to the image is arbitrary.
"""


def run_measurements(names: Sequence[str], exam: Exam) -> list[Bar]:
    """Every bar of the named measurements, in their order."""
    bars: list[Bar] = []
    for name in tqdm(names, desc="measuring"):
        bars += MEASUREMENTS[name](exam)
    return bars


def describe_bar(bar: Bar) -> str:
    """The bar in a few signs, e.g. ">= 30"; empty where the number is only reported."""
    parts = [f">= {bar.at_least:g}"] if bar.at_least is not None else []
    parts += [f"<= {bar.at_most:g}"] if bar.at_most is not None else []
    return " and ".join(parts)


def read_provenance(weights: Path) -> list[dict[str, str]]:
    """File, size and what its metadata say of its training, one row for each safetensors file."""
    rows = []
    for path in sorted(weights.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        keys = ("recipe", "population", "seed", "steps", "hours", "machine", "commit", "started_from")
        row = {key: metadata.get(key, "") for key in keys}
        rows.append({"file": path.relative_to(weights).as_posix(), "MiB": f"{path.stat().st_size / MIB:.2f}"} | row)
    return rows


def write_card(
    bars: Sequence[Bar], provenance: Sequence[dict[str, str]], sheets: Sequence[Path], seconds: float
) -> str:
    """The model card in Markdown."""
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
        "A word's attention is the mean over heads, finest-grid layers and timesteps of one guided generation; its part",
        "is what the face parser sees in the image that came out. *Covered* is the share of the part's area where the",
        "attention is above the map's mean.",
        "",
        f"## Weights and training ({total:.1f} MiB in all)",
        "",
        table([{key: value for key, value in row.items() if any(r[key] for r in provenance)} for row in provenance]),
        "",
        "Each is trained again from nothing by `python -m mcpkg.factory.train RECIPE`. What was started from other weights",
        "(`--start`) says so: its steps and hours are those since then, and numbers of a training from nothing will differ.",
        "",
        INTENDED_USE,
        "## Sample sheets",
        "",
        pictures,
        "",
    ])  # fmt: skip


def table(rows: Sequence[dict[str, str]]) -> str:
    """Markdown table; the first row's keys are its head."""
    if not rows:
        return "(none)"
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(only: str = "", as_json: Annotated[bool, tyro.conf.arg(name="json")] = False, prompts: int = 256) -> None:
    """Measure the models on unseen seeds; a full run also writes MODEL_CARD.md and its sample sheets.

    Args:
        only: measure just these, separated by commas; nothing is written.
        as_json: print the numbers as JSON instead of a table.
        prompts: how many prompts the base model is measured on.
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
        card = write_card(bars, read_provenance(WEIGHTS), sheets, time.perf_counter() - start)
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
