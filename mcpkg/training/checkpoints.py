"""What a training writes while it runs: its checkpoint, its loss history, a log for TensorBoard.

`run_folder` resumes from them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mcpkg.training.progress import Progress, StepReport, TrainingState
from mcpkg.util.files import replace_whole
from mcpkg.util.safetensors_io import read_weights, write_weights

STEPS_FILE, CHECKPOINT_FILE = "steps.jsonl", "checkpoint.safetensors"


def read_steps(folder: str | Path) -> list[dict]:
    """The loss history of a run: StepReports as dicts, in order; a last line that is not whole is left out."""
    path, reports = Path(folder) / STEPS_FILE, []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            reports.append(json.loads(line))
        except ValueError:
            break  # killed while writing it
    return reports


def save_checkpoint(state: TrainingState, path: str | Path) -> None:
    """One file, so that its tensors and its counters can never be of different steps."""
    write_weights(state.tensors, path, {"progress": json.dumps(asdict(state.progress))})


def load_checkpoint(path: str | Path) -> TrainingState:
    """What `save_checkpoint` wrote.

    Raises:
        ValueError: it is damaged, or no checkpoint.
    """
    from safetensors import safe_open

    advice = "Remove this file to train from the start."
    try:
        tensors = read_weights(path)
    except ValueError as error:
        raise ValueError(f"{error} {advice}") from None
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    try:
        return TrainingState(tensors, Progress(**json.loads(metadata["progress"])))
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path}: no checkpoint of a training. {advice}") from None


def recorded(reports: Iterator[StepReport], folder: Path, done: int, is_main: bool) -> Iterator[StepReport]:
    """Passes reports on and appends them to the history, which is first cut back to the steps that are kept."""
    if not is_main:
        yield from reports
        return
    kept = read_steps(folder)[:done]
    with replace_whole(folder / STEPS_FILE) as partial:
        partial.write_text("".join(f"{json.dumps(report)}\n" for report in kept))
    with (folder / STEPS_FILE).open("a") as file:
        for report in reports:
            file.write(json.dumps(asdict(report)) + "\n")
            file.flush()  # before the checkpoint that counts this step
            yield report


class TensorBoardLog:
    """Loss terms and rates through accelerate's tracker.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        from accelerate.utils import is_tensorboard_available

        if not is_tensorboard_available():
            raise ValueError("tensorboard: not installed. Run pip install tensorboard, or train without it.")
        self.folder = folder

    def start(self, done: int) -> None:
        from accelerate.tracking import TensorBoardTracker

        # purge_step: a killed run has logged steps that are now done again
        self.tracker = TensorBoardTracker("tensorboard", self.folder, purge_step=done + 1)
        self.tracker.start()

    def step(self, report: StepReport, done: int) -> None:
        rates = {f"learning_rate/{kind}": rate for kind, rate in report.learning_rates.items()}
        self.tracker.log({"loss": report.loss} | {f"term/{k}": v for k, v in report.terms.items()} | rates, step=done)
