"""How long commands take to start: python -m benchmarks.start_up --json.

Each runs in a process of its own, in turns, round by round. Counted are the seconds that its processor spent. Beside
other busy processes these double, too, so `import torch` is measured with them, as the unit.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import tyro

from mcpkg.training.checkpoints import STEPS_FILE
from mcpkg.util.errors import one_line_errors
from mcpkg.world.sample_folders import SAMPLES, ensure_samples

PYTHON, MCPKG = (sys.executable, "-c"), (sys.executable, "-m", "mcpkg.cli")
TORCH = "import torch"
TRAIN = "train, to its first step"
COMMANDS = {
    TORCH: (*PYTHON, "import torch"),
    "import mcpkg": (*PYTHON, "import mcpkg"),
    "mcpkg --help": (*MCPKG, "--help"),
    "mcpkg doctor": (*MCPKG, "doctor"),
    TRAIN: (*MCPKG, "train", "--n", "0"),
}
BARS_S = {"import mcpkg": 0.1, "mcpkg --help": 0.3, "mcpkg doctor": 3.0, TRAIN: 6.0}
PATIENCE_S = 600


def main(
    rounds: int = 3,
    samples: Path = SAMPLES,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Measure every command and compare it with its bar, in seconds, and with `import torch`.

    Args:
        rounds: how often each command is started; the median counts.
        samples: holds subjects/ and styles/.
        as_json: print JSON instead of a table.
    """
    if rounds < 1:
        raise ValueError(f"--rounds: {rounds} is below 1.")
    folders = [ensure_samples(samples) / kind for kind in ("subjects/bruno", "styles/noir_suit")]
    pictures = ("--source", str(folders[0]), "--reference", str(folders[1]))
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                started = (*command, *pictures, "--out", str(run)) if name == TRAIN else command
                seconds[name].append(processor_seconds(started, run / STEPS_FILE if name == TRAIN else None))
    unit = median(seconds[TORCH])
    result = {
        name: {"seconds": median(values), "ratio": median(values) / unit, "bar_s": BARS_S.get(name)}
        for name, values in seconds.items()
    }
    print(json.dumps({"rounds": rounds, "commands": result}, indent=2) if as_json else table(result))


def processor_seconds(command: Sequence[str], file: Path | None = None) -> float:
    """What a command's process spends of processor time, in user and system mode.

    Args:
        file: the process is ended as soon as something is in this file, which it writes.

    Raises:
        OSError: it failed, or did not get there in `PATIENCE_S`.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ends, reached = time.monotonic() + PATIENCE_S, False
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        reached = reached or (file is not None and file.is_file() and file.stat().st_size > 0)
        if reached or time.monotonic() > ends:
            process.kill()
        time.sleep(0.01)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    with process.stderr:
        said = process.stderr.read().decode().strip()
    if not reached and (process.returncode or file is not None):
        raise OSError(f"{' '.join(command)}: ended with {process.returncode}. {said}")
    return usage.ru_utime + usage.ru_stime


def table(result: dict) -> str:
    """One line a command."""
    lines = [f"{'':<28}{'seconds':>9}{'bar':>7}{'of import torch':>17}"]
    for name, cost in result.items():
        bar = "" if cost["bar_s"] is None else f"{cost['bar_s']:g}"
        lines.append(f"{name:<28}{cost['seconds']:>9.2f}{bar:>7}{cost['ratio']:>17.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m benchmarks.start_up")
