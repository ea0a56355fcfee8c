"""What a training writes while it runs: its checkpoint and its loss history.

`run_folder` resumes from them.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from mcpkg.method.config import Method
from mcpkg.training.progress import Progress, StepReport, TrainingState
from mcpkg.util.errors import notify
from mcpkg.util.files import finite, replace_whole
from mcpkg.util.safetensors_io import read_weights, write_weights
from mcpkg.util.schema import Schema, check_json

STEPS_FILE, CHECKPOINT_FILE = "steps.jsonl", "checkpoint.safetensors"
_STATE_KEY = "training"  # of the file's metadata
ADVICE = "Remove this file to train from the start, or copy it again."


class _StepLine(Schema):
    """A StepReport in JSON, which has no NaN: None stands for it."""

    phase: int
    step: int
    steps: int
    loss: float | None
    terms: dict[str, float | None]
    learning_rates: dict[str, float]
    gradient_norm: float | None
    identity_images: int
    no_face_images: int
    left_out: int = 0  # runs of earlier versions ended at the first
    seconds: float


class _State(Schema):
    """What a checkpoint holds beside its tensors."""

    progress: Progress
    sha256: str
    """Of all tensors, their names and the progress."""


def read_steps(folder: str | Path) -> list[dict]:
    """The loss history of a run: StepReports as dicts, in order; a last line that is not whole is left out.

    Warns:
        Notice: an earlier line is damaged; it and those after it are left out.
    """
    path, reports = Path(folder) / STEPS_FILE, []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            report = check_json(line, _StepLine, path, "").model_dump()
        except ValueError:
            if number < len(lines):  # the last may have been cut by a kill
                notify(f"{path}: line {number} is damaged; the loss curves end before it.")
            break
        for values in (report, report["terms"]):
            values.update({name: math.nan for name, value in values.items() if value is None})
        reports.append(report)
    return reports


def save_checkpoint(state: TrainingState, path: str | Path) -> None:
    """One file, so that its tensors and its counters can never be of different steps; with a digest of both."""
    values = {"progress": asdict(state.progress), "sha256": _digest(state)}
    write_weights(state.tensors, path, {_STATE_KEY: json.dumps(values, allow_nan=False)})


def load_checkpoint(path: str | Path) -> TrainingState:
    """What `save_checkpoint` wrote.

    Raises:
        ValueError: it is damaged, or no checkpoint.
    """
    from safetensors import safe_open

    try:
        tensors = read_weights(path)
    except ValueError as error:
        raise ValueError(f"{error} {ADVICE}") from None
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if _STATE_KEY not in metadata:
        raise ValueError(f"{path}: no checkpoint of a training, or of an earlier version. {ADVICE}")
    values = check_json(metadata[_STATE_KEY], _State, path, ADVICE)
    state = TrainingState(tensors, values.progress)
    if _digest(state) != values.sha256:
        raise ValueError(f"{path}: its checksum differs, so it is damaged. {ADVICE}")
    return state


def check_state(state: TrainingState, parameters: Mapping[str, Tensor], method: Method) -> None:
    """Raise unless a state is of a training of these parameters; the optimiser checks its own moments.

    Raises:
        ValueError: names what is missing or wrong.
    """
    at, learned, random = state.progress, state.below("parameter "), state.below("generator ")
    here, there = ({name: (x.shape, x.dtype) for name, x in of.items()} for of in (parameters, learned))
    if here != there:
        raise ValueError("holds parameters of another method or backend")
    if len(learned) + len(random) + len(state.below("moment ")) < len(state.tensors):
        raise ValueError("holds tensors that are no part of a training")
    if random.keys() != {str(number) for number in range(PartialState().num_processes)}:
        raise ValueError("lacks a process's random state, or has one more. Use as many processes as before")
    for values in random.values():
        generator = torch.Generator()
        try:
            generator.set_state(values)
        except (RuntimeError, TypeError):
            raise ValueError("its random state is damaged") from None
        if values.shape != generator.get_state().shape:
            raise ValueError("its random state has another shape")
    steps = [*(phase.steps for phase in method.phases), 0]  # the last: after all phases
    if at.phase >= len(steps) or at.step > steps[at.phase]:
        raise ValueError(f"phase {at.phase + 1}, step {at.step}: {method.name} has no such step")


def _digest(state: TrainingState) -> str:
    digest = hashlib.sha256(json.dumps(asdict(state.progress), sort_keys=True).encode())
    for name in sorted(state.tensors):
        tensor = state.tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def recorded(reports: Iterator[StepReport], folder: Path, done: int, is_main: bool) -> Iterator[StepReport]:
    """Passes reports on and appends them to the history, which is first cut back to the steps that are kept."""
    if not is_main:
        yield from reports
        return
    kept = read_steps(folder)[:done]
    if len(kept) < done:
        notify(f"{folder / STEPS_FILE}: lacks {done - len(kept)} steps; the loss curves will have a gap.")
    write_steps(kept, folder)
    with (folder / STEPS_FILE).open("a") as file:
        for report in reports:
            file.write(_line(asdict(report)))
            file.flush()  # before the checkpoint that counts this step
            yield report


def write_steps(reports: Iterable[dict], folder: Path) -> None:
    """Write a loss history in place of what is there; see `read_steps`."""
    with replace_whole(folder / STEPS_FILE) as partial:
        partial.write_text("".join(map(_line, reports)))


def _line(report: dict) -> str:
    return json.dumps(finite(report), allow_nan=False) + "\n"
