"""mcpkg grid"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mcpkg.cli.options import AsJson, Models, ModelsFlat, Pictures, SamplingOptions, check_training
from mcpkg.cli.outputs import Overwrite, check_output
from mcpkg.cli.overrides import Overrides, RefocusingOverrides, WeightOverrides
from mcpkg.cli.training import MethodName, Recipe
from mcpkg.method.methods import METHODS
from mcpkg.method.recipes import RECIPES

FAILED = 1
"""Exit code if a cell has failed."""
SLURM_HELP = (
    "Work in jobs of a Slurm cluster instead: options of sbatch by name, such as partition=gpu time=60 "
    "gpus-per-node=1; time is in minutes. --workers is the number of jobs. Jobs go on when this command is stopped, "
    "and go back to the queue when they are preempted or their time is over. Needs pip install 'mcpkg[cluster]'."
)


def grid(
    source: tuple[Path, ...],
    reference: tuple[Path, ...],
    out: Path,
    method: tuple[MethodName, ...] = ("magicapture",),
    recipe: Recipe = None,
    seed: tuple[int, ...] = (0,),
    pairs: Literal["all", "zip"] = "all",
    n: int = 8,
    workers: int = 1,
    slurm: Annotated[tuple[str, ...], tyro.conf.arg(help=SLURM_HELP)] = (),
    mask_from: Literal["files", "alpha", "parser"] = "files",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    models: ModelsFlat = Models(),
    research: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    weights: WeightOverrides = WeightOverrides(),
    refocusing: RefocusingOverrides = RefocusingOverrides(),
) -> int:
    """Train, draw and score every method on every pair and seed, several at a time. What is finished is never repeated:
    if it is killed, or if you want more methods, pairs or seeds, give the command again.

    Args:
        source: folders with photos of one person each: who.
        reference: folders with portraits of others that share a look each: the styles.
        out: folder for overview.html, table.csv, table.md, and a folder with adapter, portraits and scores for each
            cell. Cells of earlier runs stay there, and are used again wherever they are asked for.
        method: which methods or ablations. Options of the method, below, hold for all of them.
        seed: of training and of the first portrait.
        pairs: "all" for each source with each reference; "zip" for the first with the first, the second with the
            second, and so on.
        n: how many portraits to draw and score for each cell. With another number nothing is trained again.
        workers: how many cells to work on at a time, each in a process of one thread; with several GPUs, on one each.
        mask_from: where face masks come from: files in a folder `masks` beside the images, their transparency, or the
            parser.
    """
    output = check_output("grid", locals(), (*source, *reference))
    for name, given in {"source": source, "reference": reference, "method": method, "seed": seed}.items():
        if not given:
            raise ValueError(f"--{name}: none given.")
    if workers < 1:
        raise ValueError(f"--workers: {workers} is below 1.")
    drawing = RECIPES[recipe].sampling if recipe else {}
    samplings = {one: SamplingOptions(n=n, seed=one, **drawing) for one in seed}
    models.check()
    chosen = [
        check_training(models.backend, METHODS[one], recipe, research, weights, refocusing)
        for one in dict.fromkeys(method)
    ]
    folders = pair_up(source, reference, pairs)
    for pair in folders:
        Pictures(*pair).check()

    from mcpkg.inference.sampling import Sampling
    from mcpkg.metrics.grid import Cell, Grid, run_grid, start_processes
    from mcpkg.metrics.grid.cluster import check_cluster, submit_jobs
    from mcpkg.metrics.grid.processes import visible_gpus
    from mcpkg.metrics.grid.running import Worker
    from mcpkg.metrics.grid.table import TABLE_FILE, means_text
    from mcpkg.viz.grid_overview import OVERVIEW_FILE, write_overview

    cells = tuple(
        Cell(one, *pair, number, Sampling(n=n, seed=number, **drawing), mask_from, models.precision)
        for pair, one, number in product(folders, chosen, samplings)
    )
    start: Callable[[Grid], Sequence[Worker]]
    if slurm:
        start = partial(submit_jobs, workers=workers, options=check_cluster(slurm))
    else:
        gpus = visible_gpus() if models.device in ("auto", "cuda") else []
        start = partial(start_processes, workers=min(workers, len(cells)), gpus=gpus)
    with output.writing(alone=False):
        rows = run_grid(Grid(cells, out, models.load, write_overview), start)
    failed = [row for row in rows if row.kept is None]
    for row in failed:
        print(f"failed: {', '.join(row.names)}: {row.error}", file=sys.stderr)
    answer = {"overview": str(out / OVERVIEW_FILE), "table": str(out / TABLE_FILE)}
    if as_json:
        print(json.dumps(answer | {"cells": [row.as_dict() for row in rows]}, indent=2))
    else:
        print(f"{means_text(rows)}\n\n{answer['overview']}")
    return FAILED if failed else 0


def pair_up(source: Sequence[Path], reference: Sequence[Path], pairs: str) -> list[tuple[Path, Path]]:
    """Each source with each reference, or the first with the first and so on.

    Raises:
        ValueError: not as many of the one as of the other.
    """
    if pairs == "all":
        return list(product(source, reference))
    if len(source) != len(reference):
        raise ValueError(f"--pairs zip: {len(source)} sources and {len(reference)} references. Give as many of each.")
    return list(zip(source, reference))
