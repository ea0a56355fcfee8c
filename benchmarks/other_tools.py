"""What portraits lose in tools without plain guidance: python -m benchmarks.other_tools --json.

A1111, ComfyUI and others lead away from what the personalised model draws without a prompt, mcpkg from what the model
drew before training. Trains every method on every pair by a grid (`mcpkg grid`) and scores its portraits under both
kinds of guidance, from the same noise.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.pairs import find_pair, vary
from mcpkg.backends import load_backend, tune_without_models
from mcpkg.cli.demo import SAMPLES, check_input
from mcpkg.data.portraits import load_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import METHODS
from mcpkg.metrics.compare import judge_in_other_tools
from mcpkg.metrics.grid import Cell, Grid, read_outcome, run_grid, start_processes
from mcpkg.metrics.scores import Scores
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import write_json
from mcpkg.util.images import save_image
from mcpkg.util.statistics import bootstrap_interval

VARIANTS = {
    "magicapture": ("magicapture", "{}"),
    "for other tools": ("for-other-tools", "{}"),
    "LoRA on cross-attention": ("magicapture", '{"name": "LoRA on cross-attention", "lora_layers": "cross_attention"}'),
}
"""Name -> method and what is replaced in it, see `benchmarks.pairs`."""
SCORES = ("identity_scaled", "style", "leakage_source")
KINDS = ("plain guidance", "as other tools")


def main(
    pairs: tuple[str, ...] = ("amara:kimono", "bruno:noir_suit", "clara:spacesuit", "daichi:wedding"),
    variants: tuple[str, ...] = tuple(VARIANTS),
    out: Path = Path("runs/other_tools"),
    backend: str = "mini",
    samples: Path = SAMPLES,
    seed: int = 0,
    n: int = 8,
    workers: int = 1,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Train what is not trained yet, and compare.

    Args:
        pairs: subject:style, folders of the samples.
        variants: which of the methods.
        out: folder of the grid; a cell's other_tools.png has both kinds of portraits, plain guidance above.
        backend: which models.
        samples: holds subjects/ and styles/.
        seed: of training and images.
        n: images per pair.
        workers: how many cells to train at a time.
        as_json: print JSON instead of a table.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants:
        raise ValueError(f"--variants: {unknown or 'none given'}. Choose from {', '.join(VARIANTS)}.")
    folders = [find_pair(pair, samples) for pair in pairs]
    check_input([folder for both in folders for folder in both], n)
    methods = {
        name: vary(tune_without_models(backend, METHODS[method]), changes)
        for name, (method, changes) in VARIANTS.items()
        if name in variants
    }
    sampling = Sampling(n=n, seed=seed)
    cells = tuple(Cell(method, *pair, seed, sampling) for method in methods.values() for pair in folders)
    rows = run_grid(Grid(cells, out, partial(load_backend, backend)), partial(start_processes, workers=workers))
    if failed := [row for row in rows if row.kept is None]:
        raise ValueError(f"{', '.join(failed[0].names)}: {failed[0].error} {len(failed)} cells have failed.")

    models = load_backend(backend)
    scores: dict[str, dict[str, list[Scores]]] = {name: {kind: [] for kind in KINDS} for name in methods}
    for i, row in enumerate(rows):
        kept, (source, reference) = read_outcome(row.folder), folders[i % len(folders)]
        of_pair = load_portraits(source, models), load_portraits(reference, models)
        other = judge_in_other_tools(models, kept.adapter, *of_pair, sampling)
        for kind, outcome in zip(KINDS, (kept, other), strict=True):
            scores[list(methods)[i // len(folders)]][kind].append(outcome.scores)
        drawn = [torch.cat(list(outcome.generated.images), dim=-1) for outcome in (kept, other)]
        save_image(torch.cat(drawn, dim=-2), row.folder / "other_tools.png")
    summary = {name: compare(of_method, seed) for name, of_method in scores.items()}
    write_json({"pairs": list(pairs), "seed": seed, "methods": summary}, out / "other_tools.json")
    print(json.dumps(summary, indent=2) if as_json else table(summary))


def compare(scores: dict[str, list[Scores]], seed: int) -> dict[str, dict]:
    """Means over pairs of both kinds of guidance, and of their difference, with its interval over pairs."""
    summary = {}
    for name in SCORES:
        plain, other = (torch.tensor([getattr(one, name).mean for one in scores[kind]]) for kind in KINDS)
        lost = asdict(bootstrap_interval(other - plain, torch.Generator().manual_seed(seed)))
        summary[name] = {KINDS[0]: plain.mean().item(), KINDS[1]: other.mean().item(), "difference": lost}
    return summary


def table(summary: dict[str, dict[str, dict]]) -> str:
    """One line a method and score."""
    width = max(map(len, summary))
    lines = [f"{'':<{width}}  {'score':<15}  {KINDS[0]}  {KINDS[1]}  difference, 95 % over pairs"]
    for name, of_method in summary.items():
        for score, values in of_method.items():
            mean, low, high = (values["difference"][key] for key in ("mean", "low", "high"))
            lines.append(
                f"{name:<{width}}  {score:<15}  {values[KINDS[0]]:>14.3f}  {values[KINDS[1]]:>14.3f}  "
                f"{mean:.3f} [{low:.3f}, {high:.3f}]"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.other_tools")
