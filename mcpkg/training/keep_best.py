"""The best of a training's checkpoints by the score of a few portraits, kept beside the run until that has finished.

checkpoint_scores.jsonl  one line for each checkpoint that was scored
best/000120/             adapter of the best one so far
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.training.run_options import RunOptions
from mcpkg.training.trainer import Training
from mcpkg.util.errors import notify
from mcpkg.util.files import replace_whole
from mcpkg.util.schema import Schema, check_json

CHECKPOINT_SCORES_FILE, BEST_FOLDER = "checkpoint_scores.jsonl", "best"
SCORED = Sampling(n=4, seed=1_000_000)
"""The portraits that are scored: the same seeds at every checkpoint, and none that a report has by default."""


class CheckpointScore(Schema):
    """One line of `checkpoint_scores.jsonl`."""

    step: Annotated[int, Field(ge=0)]
    """Steps done, of all phases."""
    by: str
    """Which score."""
    score: float | None
    """Mean of the portraits; None if they have none, as without a face."""


def read_checkpoint_scores(folder: str | Path) -> list[CheckpointScore]:
    """The scores of a run's checkpoints in order; empty if none was scored.

    Raises:
        ValueError: a line is damaged.
    """
    path = Path(folder) / CHECKPOINT_SCORES_FILE
    lines = path.read_bytes().splitlines() if path.is_file() else []
    advice = "Copy the file again, or remove it; checkpoints that it names are then no longer compared."
    return [check_json(line, CheckpointScore, f"{path}: line {n}", advice) for n, line in enumerate(lines, 1)]


def best_of(scores: Iterable[CheckpointScore]) -> CheckpointScore:
    """The highest score; of equal ones, or without any, the last."""
    return max(scores, key=lambda one: (-math.inf if one.score is None else one.score, one.step))


def best_checkpoint(
    folder: Path, options: RunOptions, score: Callable[[Generated], float] | None
) -> "BestCheckpoint | None":
    """What keeps the best checkpoint of a run in the folder; None if the last one is to be kept.

    Raises:
        ValueError: there is no function that scores.
    """
    if options.keep_best is None:
        return None
    if score is None:
        raise ValueError(f"score: missing, but keep_best is {options.keep_best!r}. Give a function of portraits.")
    return BestCheckpoint(folder, options.keep_best, options.keep_best_every or options.save_every, score)


@dataclass
class BestCheckpoint:
    """Scores the checkpoints of a training and keeps the adapter of the best; the training is not changed by it.

    An adapter is written before its line, and the line before the run's checkpoint. So a killed run finds the best of
    all lines in its place, and what it lacks is scored again.
    """

    folder: Path
    """Of the run."""
    by: str
    """Name of the score."""
    every: int
    """Steps, of all phases, between two scores in the last phase."""
    score: Callable[[Generated], float]
    scores: list[CheckpointScore] = field(default_factory=list)

    def go_on(self) -> None:
        """Read what the run has scored so far.

        Raises:
            ValueError: a file is damaged.
        """
        self.scores = read_checkpoint_scores(self.folder)
        try:
            if self.scores:
                Adapter.load(self._place(best_of(self.scores)))
        except FileNotFoundError:
            notify(f"{self._place(best_of(self.scores))}: missing; only later checkpoints are compared.")
            self.scores = []

    def is_due(self, training: Training) -> bool:
        """Whether the current step is one to score; the last step is scored in any case."""
        done, before = training.steps_done, sum(phase.steps for phase in training.method.phases[:-1])
        return done > before and done % self.every == 0

    def consider(self, training: Training) -> None:
        """Score what has been learned so far, unless that was done, and keep it if it is the best."""
        done = training.steps_done
        if any(one.step == done for one in self.scores):
            return
        value = self.score(generate_portraits(training.backend, training.live_adapter(), sampling=SCORED))
        this = CheckpointScore(step=done, by=self.by, score=value if math.isfinite(value) else None)
        best = best_of([*self.scores, this])
        if best is this:
            training.adapter().save(self._place(this))
        self.scores.append(this)
        with replace_whole(self.folder / CHECKPOINT_SCORES_FILE) as partial:
            partial.write_text("".join(json.dumps(one.model_dump(), allow_nan=False) + "\n" for one in self.scores))
        for other in (self.folder / BEST_FOLDER).iterdir():
            if other != self._place(best):
                shutil.rmtree(other)

    def adapter(self, training: Training) -> Adapter:
        """The best adapter, now that the training has ended; its record names step and score."""
        self.consider(training)
        best = best_of(self.scores)
        record = training.adapter().record | {"best_step": best.step}
        if best.score is None:
            notify(f"keep_best: {self.by} has no value at any checkpoint; the adapter is that of the last one.")
        else:
            record[f"best_{self.by}"] = best.score
        return replace(Adapter.load(self._place(best)), record=record)

    def _place(self, scored: CheckpointScore) -> Path:
        return self.folder / BEST_FOLDER / f"{scored.step:06d}"
