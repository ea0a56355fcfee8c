"""kill -9 of `mcpkg generate`, and its peak memory: python -m benchmarks.generate_memory --json.

Portraits are drawn with a briefly trained adapter: a few, many, and many again, killed while the batch that holds the
middle one is drawn. All batches before it have to be there then, and the repeated command has to draw the rest with the
same bytes. Many may need hardly more memory than a few.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import tyro

from mcpkg.backends import load_backend
from mcpkg.cli.demo import SAMPLES
from mcpkg.data.portraits import load_portraits
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.training.trainer import personalise
from mcpkg.util.errors import one_line_errors
from mcpkg.util.files import STAGED

MORE_MEMORY = 1.1
"""How much more memory many portraits may need than a few."""
BATCH = 8
"""Portraits that `mcpkg generate` draws at a time."""


def main(
    n: int = 200,
    few: int = 16,
    steps: int = 4,
    samples: Path = SAMPLES,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Measure, and exit with 1 unless the rest follows with the same bytes and memory does not grow.

    Args:
        n: how many portraits are many.
        few: how many are a few.
        steps: denoising steps.
        samples: holds subjects/ and styles/.
        as_json: print the numbers as JSON.
    """
    if n < 2 * BATCH or few < 1 or steps < 1:
        raise ValueError(f"--n is at least {2 * BATCH}, --few and --steps are at least 1.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train_briefly(folder / "adapter", samples)
        result: dict[str, int | float | bool] = {"n": n, "few": few}
        result["few_mib"] = draw(folder, "few", few, steps)
        result["many_mib"] = draw(folder, "many", n, steps)
        half = n // 2 // BATCH * BATCH
        draw(folder, "killed", n, steps, kill_at=half)
        result["there_after_kill"] = len(portraits(folder / "killed"))
        draw(folder, "killed", n, steps)
        expected, found = portraits(folder / "many"), portraits(folder / "killed")
        result["same_bytes"] = sum(found.get(name) == of_whole for name, of_whole in expected.items())
        result["leftovers"] = len(list((folder / "killed").rglob(f"*{STAGED}*")))
    result["more_memory"] = round(result["many_mib"] / result["few_mib"], 3)
    result["passed"] = (
        half <= result["there_after_kill"] < n
        and result["same_bytes"] == len(expected) == len(found) == n
        and result["leftovers"] == 0
        and result["more_memory"] <= MORE_MEMORY
    )
    print(json.dumps(result, indent=2) if as_json else "  ".join(f"{key}: {value}" for key, value in result.items()))
    sys.exit(0 if result["passed"] else 1)


def train_briefly(folder: Path, samples: Path) -> None:
    """Write an adapter of the built-in model after one step in each phase."""
    backend = load_backend("mini")
    pictures = [load_portraits(samples / name, backend) for name in ("subjects/amara", "styles/kimono")]
    method = backend.tune(MAGICAPTURE)
    method = replace(method, phases=tuple(replace(phase, steps=1) for phase in method.phases))
    personalise(backend, *pictures, method, progress=False).save(folder)


def draw(folder: Path, out: str, n: int, steps: int, kill_at: int | None = None) -> float:
    """Run `mcpkg generate` in a process of its own and return its peak memory in MiB.

    Args:
        kill_at: kill it when so many portraits are there.

    Raises:
        RuntimeError: it failed, or ended before it could be killed.
    """
    command = [sys.executable, "-m", "mcpkg.cli", "generate", "--adapter", str(folder / "adapter"),
               "--out", str(folder / out), "--n", str(n), "--steps", str(steps)]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while kill_at is not None and child.poll() is None and len(list((folder / out).glob("seed_*.png"))) < kill_at:
        time.sleep(0.002)
    if kill_at is not None:
        if child.poll() is not None:
            raise RuntimeError(f"mcpkg generate ended with {child.returncode} before it could be killed.")
        child.kill()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if kill_at is None and child.returncode != 0:
        raise RuntimeError(f"mcpkg generate ended with {child.returncode}; its error is above.")
    return round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes there, KiB elsewhere


def portraits(folder: Path) -> dict[str, str]:
    """Name -> digest of every portrait in the folder."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("seed_*.png")}


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.generate_memory", config=(tyro.conf.FlagCreatePairsOff,))
