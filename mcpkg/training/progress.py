"""What a training reports after each step, how far it has come, and the state that it goes on from."""

import math
from dataclasses import dataclass

from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from mcpkg.method.objective import BatchLoss
from mcpkg.util.errors import notify

GIVE_UP = 10
"""Forward passes in a row without a finite loss or gradient, after which a training ends: it has diverged."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: for plots, logs and previews, which live outside the loop."""

    phase: int
    step: int
    """In this phase, from 0."""
    steps: int
    """Steps in this phase."""
    loss: float
    """Mean over the forward passes; NaN if all are left out."""
    terms: dict[str, float]
    """Mean of each loss term before its weight; a term that did not apply is absent."""
    learning_rates: dict[str, float]
    """Kind of parameters -> its rate in this step."""
    gradient_norm: float
    """Before clipping. The update is left out if it is not finite."""
    identity_images: int
    """Predicted images in this step that the identity loss was asked to judge."""
    no_face_images: int
    """Those of them in which no face was found; they are left out of the loss."""
    left_out: int
    """Forward passes that are left out, because their loss is not finite."""
    seconds: float


@dataclass
class Progress:
    """How far a training has come."""

    phase: int = 0
    step: int = 0
    """Steps done in this phase."""
    identity_images: int = 0
    """Predicted images that the identity loss was asked to judge."""
    no_face_images: int = 0
    """Those of them in which no face was found."""
    seconds: float = 0.0
    """Spent on preparing and training, in all sessions; not on what was done between the steps."""
    left_out: int = 0
    """Forward passes and updates that were left out, because a loss or gradient was not finite."""
    left_out_in_a_row: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name}: {value} is below 0")

    def can_use(self, value: Tensor) -> bool:
        """Whether a pass's loss, or a step's gradient norm, is finite in all processes; if not, it is left out.

        All that this depends on is in a checkpoint, so that a training that goes on leaves out the same.

        Raises:
            FloatingPointError: it is the last of `GIVE_UP` in a row.
        """
        finite = value.detach().isfinite()
        if PartialState().num_processes > 1:  # a process that skips alone would leave the others waiting for gradients
            finite = reduce(finite.float(), "mean") == 1
        if finite:
            return True
        self.left_out += 1
        self.left_out_in_a_row += 1
        where = f"phase {self.phase + 1}, step {self.step}"
        if self.left_out_in_a_row >= GIVE_UP:
            raise FloatingPointError(
                f"{where}: no finite loss or gradient in {GIVE_UP} forward passes in a row. "
                "Lower the learning rate, and give a new folder."
            )
        notify(f"{where}: a loss or gradient is not finite, and is left out.")
        return False

    def count(self, report: StepReport) -> None:
        """Take a finished step into account."""
        self.step += 1
        self.seconds += report.seconds
        self.identity_images += report.identity_images
        self.no_face_images += report.no_face_images
        if math.isfinite(report.loss) and math.isfinite(report.gradient_norm):
            self.left_out_in_a_row = 0


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training: what the same training, started again, needs to go on bit for bit."""

    tensors: dict[str, Tensor]
    """Parameters, the optimiser's state, and each process's random generator."""
    progress: Progress

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with "parameter ", "moment " or "generator ", by the rest of their names."""
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


def mean_terms(passes: list[BatchLoss]) -> dict[str, float]:
    """Each term's mean over the forward passes in which it applied."""
    values: dict[str, list[float]] = {}
    for one in passes:
        for name, of_samples in one.terms.items():
            if len(of_samples):
                values.setdefault(name, []).append(of_samples.mean().item())
    return {name: sum(means) / len(means) for name, means in values.items()}
