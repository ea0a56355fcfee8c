"""A first phase that several trainings share: methods that differ in later phases only train it once.

steps.jsonl              its steps
checkpoint.safetensors   while it is not finished
first_phase.safetensors  the training's state after it
"""

from dataclasses import dataclass, replace
from pathlib import Path

from mcpkg.data.portraits import Portraits
from mcpkg.method.config import TASKS, TRAINABLE, Method, Phase
from mcpkg.method.interfaces import Backend
from mcpkg.training.checkpoints import CHECKPOINT_FILE, load_checkpoint, read_steps, recorded, save_checkpoint
from mcpkg.training.progress import TrainingState
from mcpkg.training.run_options import RunOptions
from mcpkg.training.trainer import open_training
from mcpkg.util.folders import one_process

FIRST_PHASE_FILE = "first_phase.safetensors"


@dataclass(frozen=True)
class FirstPhase:
    """What a training goes on from in place of its own first phase."""

    file: Path
    state: TrainingState
    """At the first step of the second phase."""
    steps: tuple[dict, ...]
    """Every step of the first phase, as StepReport's fields."""


def first_phase_of(method: Method) -> Method | None:
    """The first phase as a method of its own, equal for all methods that can share it; None if there is none to share.

    It has a second phase of no steps, which names all that later phases train and all their tasks: the parameters of
    the former are drawn, and the latents of the latter encoded, before the first step.
    """
    first, *later = method.phases
    if not later or first.steps == 0:
        return None
    trains = tuple(kind for kind in TRAINABLE if any(kind in phase.trains for phase in method.phases))
    tasks = tuple(task for task in TASKS if any(task in phase.tasks for phase in method.phases))
    return replace(method, name="first phase", phases=(first, Phase(steps=0, trains=trains, tasks=tasks)))


def train_first_phase(
    folder: Path,
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    method: Method,
    seed: int,
    precision: str | None = None,
) -> FirstPhase:
    """Train a first phase, or go on with it, or read it if it is finished.

    Args:
        folder: of this first phase alone.
        backend, source, reference, seed, precision: see `personalise`.
        method: from `first_phase_of`.

    Raises:
        ValueError: a file is damaged.
        OSError: no space left, or another process is writing there.
        FloatingPointError: the loss is no longer finite.
    """
    finished, checkpoint = folder / FIRST_PHASE_FILE, folder / CHECKPOINT_FILE
    with one_process(folder):
        if not finished.is_file():
            with open_training(backend, source, reference, method, seed, precision) as training:
                if checkpoint.is_file():
                    training.restore(load_checkpoint(checkpoint))
                for _ in recorded(training.steps(show_progress=False), folder, training.steps_done, is_main=True):
                    if training.steps_done % RunOptions.save_every == 0:
                        save_checkpoint(training.state(), checkpoint)
                end = training.state()
            save_checkpoint(replace(end, progress=replace(end.progress, phase=1, step=0)), finished)
        checkpoint.unlink(missing_ok=True)
        return FirstPhase(finished, load_checkpoint(finished), tuple(read_steps(folder)))
