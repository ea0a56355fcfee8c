"""A grid of the built-in model, by one worker and by two: python -m benchmarks.grid_scaling --json.

Prints the ratio of the clock, and whether every adapter is the same, bit for bit. With --kills 10, a grid is also
killed ten times, as a whole or one of its workers, and repeated: nothing that is finished may be done again, and what
is learned has to be the same. With --twice, two grids are started on the same cells: each may be trained once only.
Exits with 1 unless all of that holds. The ratio is not judged: it needs an idle machine.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Annotated

import tyro

from mcpkg.backends import load_backend, tune_without_models
from mcpkg.cli.demo import SAMPLES
from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import MAGICAPTURE, WITHOUT_REFOCUSING
from mcpkg.metrics.grid import Cell, Grid, run_grid, start_processes
from mcpkg.training.run_file import read_run
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import STAGED, file_sha256

PAIRS = (("amara", "kimono"), ("bruno", "noir_suit"))
METHODS = (MAGICAPTURE, WITHOUT_REFOCUSING)
SEEDS = (0, 1, 2)
FEW = 4
"""Cells of a grid that is killed, or run twice."""
KILLS_PER_RUN = 4


def main(
    steps: int = 60,
    workers: int = 2,
    kills: int = 0,
    twice: bool = False,
    seed: int = 0,
    samples: Path = SAMPLES,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Run 12 short cells with one worker and with several, and compare.

    Args:
        steps: optimiser steps in each of the two phases; a checkpoint is written every 50 steps.
        workers: of the second run.
        kills: how often to kill a grid of four cells.
        twice: also run two grids of four cells at the same time.
        seed: of the moments of the kills.
        samples: holds subjects/ and styles/.
        as_json: print the result as JSON.
    """
    if steps < 1 or workers < 1 or kills < 0:
        raise ValueError("--steps and --workers are at least 1, --kills is at least 0.")
    cells = short_cells(samples, steps)
    with tempfile.TemporaryDirectory() as scratch:
        one, several = Path(scratch) / "one", Path(scratch) / "several"
        alone_s, together_s = timed(cells, one, 1), timed(cells, several, workers)
        expected = adapters(one)
        result = {
            "cells": len(cells),
            "one_worker_s": round(alone_s, 1),
            "workers": workers,
            "workers_s": round(together_s, 1),
            "ratio": round(together_s / alone_s, 3),
            "bit_equal": len(expected) == len(cells) and adapters(several) == expected,
        }
        few_s = alone_s * FEW / len(cells)
        if kills:
            result |= kill_and_repeat(Path(scratch), cells[:FEW], kills, few_s, expected, random.Random(seed))
        if twice:
            result |= run_twice(Path(scratch) / "twice", cells[:FEW], expected)
    passed = all(value for value in result.values() if isinstance(value, bool))
    result = {"passed": passed} | result
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    sys.exit(0 if passed else 1)


def short_cells(samples: Path, steps: int) -> tuple[Cell, ...]:
    """Two pairs, three seeds and two methods, which share their first phase."""
    cells = []
    for (subject, style), number, method in product(PAIRS, SEEDS, METHODS):
        tuned = tune_without_models("mini", method)
        short = replace(tuned, phases=tuple(replace(phase, steps=steps) for phase in tuned.phases))
        pair = samples / "subjects" / subject, samples / "styles" / style
        cells.append(Cell(short, *pair, number, Sampling(n=2, seed=number)))
    return tuple(cells)


def run(cells: tuple[Cell, ...], out: Path, workers: int) -> None:
    """Run a grid on the built-in model."""
    rows = run_grid(Grid(cells, out, partial(load_backend, "mini")), partial(start_processes, workers=workers))
    if failed := [row.error for row in rows if row.kept is None]:
        raise ValueError(failed[0])


def timed(cells: tuple[Cell, ...], out: Path, workers: int) -> float:
    """Seconds of a grid, models loaded in each worker."""
    started = time.perf_counter()
    run(cells, out, workers)
    return time.perf_counter() - started


def adapters(out: Path) -> dict[str, str]:
    """Each cell -> the digest of all that it learned."""
    return {
        cell.name: " ".join(file_sha256(file) for file in sorted(cell.glob("adapter/*.safetensors")))
        for cell in (out / "cells").glob("*")
    }


def kill_and_repeat(
    scratch: Path, cells: tuple[Cell, ...], kills: int, seconds: float, expected: dict[str, str], rng: random.Random
) -> dict:
    """Kill grids at random moments and repeat them until they end.

    Args:
        seconds: that such a grid takes by one worker.
        expected: what each cell has to learn.
    """
    done, runs, identical, repeated, leftovers = 0, 0, 0, 0, 0
    while done < kills:
        out, finished = scratch / f"killed-{runs}", {}
        for _ in range(min(KILLS_PER_RUN, kills - done)):
            grid = start(cells, out)
            grid.join(seconds * rng.random())
            kill(grid, one_worker=done % 2 == 1)
            done += 1
            repeated += sum(times(out).get(name) != before for name, before in finished.items())
            finished = times(out)
            print(f"{done} of {kills} kills, {len(finished)} cells finished", file=sys.stderr)
        run(cells, out, 2)
        repeated += sum(times(out).get(name) != before for name, before in finished.items())
        found = adapters(out)
        runs += 1
        identical += len(found) == len(cells) and found.items() <= expected.items()
        leftovers += len(list(out.rglob(f"*{STAGED}*")))
    counts = {"kills": done, "killed_grids": runs, "cells_repeated": repeated, "leftovers": leftovers}
    return counts | {"kills_bit_equal": identical == runs, "nothing_repeated": repeated == leftovers == 0}


def start(cells: tuple[Cell, ...], out: Path) -> SpawnProcess:
    """Start a grid of two workers in a process group of its own."""
    process = get_context("spawn").Process(target=run_apart, args=(cells, out))
    process.start()
    return process


def run_apart(cells: tuple[Cell, ...], out: Path) -> None:
    os.setpgrp()
    run(cells, out, 2)


def kill(grid: SpawnProcess, one_worker: bool) -> None:
    """Kill the process that runs a grid, or one of its workers; wait until all of it has ended."""
    workers = Path(f"/proc/{grid.pid}/task/{grid.pid}/children")
    if one_worker and workers.exists():
        for worker in map(int, workers.read_text().split()[-1:]):
            os.kill(worker, signal.SIGKILL)
        grid.join(5)
    grid.kill()
    grid.join()


def times(out: Path) -> dict[str, int]:
    """Each finished cell -> when its scores were written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("cells/*/scores.json")}


def run_twice(out: Path, cells: tuple[Cell, ...], expected: dict[str, str]) -> dict:
    """Run two grids on the same cells at the same time."""
    grids = [start(cells, out) for _ in range(2)]
    for grid in grids:
        grid.join()
    sessions = [len(read_run(file).sessions) for file in out.glob("cells/*/run.json")]
    same = adapters(out).items() <= expected.items()
    return {"each_cell_once": sessions == [1] * len(cells) and same and all(grid.exitcode == 0 for grid in grids)}


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.grid_scaling", config=(tyro.conf.FlagCreatePairsOff,))
