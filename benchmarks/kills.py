"""kill -9 and resume on the built-in model: python -m benchmarks.kills --n 20 --json.

A short training is killed again and again, at random moments and, every other time, while it is writing a file; then it
is resumed to its end. What it learned has to be, bit for bit, what the training that was never killed learned, and
nothing half-written may be left in its folder.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from mcpkg.backends import load_backend
from mcpkg.cli.demo import SAMPLES
from mcpkg.data.portraits import load_portraits
from mcpkg.method.config import Method
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.training.run_folder import ADAPTER_FOLDER, train_in_folder
from mcpkg.training.run_options import RunOptions
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import STAGED

PATIENCE_S = 300


def main(
    n: int = 20,
    steps: int = 8,
    kills_per_run: int = 4,
    seed: int = 0,
    samples: Path = SAMPLES,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Kill a training n times, and exit with 1 unless every run ends as the one that was not killed.

    Args:
        n: how often to kill.
        steps: optimiser steps in each of the two phases; a checkpoint is written every second step.
        kills_per_run: kills before a run is left to end.
        seed: of the moments.
        samples: holds subjects/ and styles/.
        as_json: print the counts as JSON.
    """
    if n < 1 or kills_per_run < 1 or steps < 2:
        raise ValueError("--n and --kills-per-run are at least 1, --steps is at least 2.")
    torch.set_num_threads(1)  # a process that has used several threads cannot be forked
    backend = load_backend("mini")
    pictures = [load_portraits(samples / folder, backend) for folder in ("subjects/amara", "styles/kimono")]
    method = backend.tune(MAGICAPTURE)
    method = replace(method, phases=tuple(replace(phase, steps=steps) for phase in method.phases))
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        finish(start(Path(scratch) / "whole", backend, pictures, method))
        seconds, expected = time.perf_counter() - started, contents(Path(scratch) / "whole")
        counts = {"kills": 0, "within_writes": 0, "runs": 0, "identical": 0, "leftovers": 0}
        while counts["kills"] < n:
            folder = Path(scratch) / f"run-{counts['runs']}"
            for _ in range(min(kills_per_run, n - counts["kills"])):
                child = start(folder, backend, pictures, method)
                in_write = kill(child, folder, counts["kills"] % 2 == 1, 0.8 * seconds * rng.random())
                counts["kills"], counts["within_writes"] = counts["kills"] + 1, counts["within_writes"] + in_write
            finish(start(folder, backend, pictures, method))
            found = contents(folder)
            counts["runs"] += 1
            counts["identical"] += found == expected
            counts["leftovers"] += len(set(found) - set(expected)) + len(list(folder.rglob(f"*{STAGED}*")))
            print(f"{counts['kills']} of {n} kills", file=sys.stderr)
    passed = counts["identical"] == counts["runs"] and counts["leftovers"] == 0
    print(json.dumps({"passed": passed} | counts, indent=2) if as_json else f"passed: {passed}  {counts}")
    sys.exit(0 if passed else 1)


def start(folder: Path, backend, pictures, method: Method) -> multiprocessing.Process:
    """Start, or resume, the training in a process of its own, which begins with all models loaded."""
    options = {"options": RunOptions(save_every=2), "progress": False}
    child = multiprocessing.get_context("fork").Process(
        target=train_in_folder, args=(folder, backend, *pictures, method), kwargs=options
    )
    child.start()
    return child


def kill(child: multiprocessing.Process, folder: Path, while_writing: bool, after_s: float) -> bool:
    """Kill a training and return whether it was writing a file.

    Args:
        while_writing: wait for the next file that is being written, after `after_s`.
        after_s: seconds until the kill; a training that ends sooner is not killed.
    """
    until = time.monotonic() + after_s
    while time.monotonic() < until and child.is_alive():
        time.sleep(0.005)
    while while_writing and child.is_alive() and not any(_parts(folder)):
        pass  # a file is written in less than a millisecond: look as often as possible
    child.kill()
    child.join()
    return any(_parts(folder))


def finish(child: multiprocessing.Process) -> None:
    """Wait for a training to end.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    child.join(PATIENCE_S)
    if child.exitcode != 0:
        child.kill()
        raise RuntimeError(f"the training ended with {child.exitcode}; its error is above.")


def contents(folder: Path) -> dict[str, str | bytes]:
    """Return the files of a run: the adapter's tensors by their bytes, all others by their names."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        learned = name.startswith(ADAPTER_FOLDER) and path.suffix == ".safetensors"
        files[name] = path.read_bytes() if learned else ""
    return files


def _parts(folder: Path):
    for root, folders, names in os.walk(folder):
        yield from (Path(root) / name for name in (*folders, *names) if STAGED in name)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.kills", config=(tyro.conf.FlagCreatePairsOff,))
