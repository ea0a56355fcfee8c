"""What a training reports after each step, how far it has come, and the state that it goes on from."""

from dataclasses import dataclass

from torch import Tensor

from mcpkg.method.objective import BatchLoss


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: for plots, logs and previews, which live outside the loop."""

    phase: int
    step: int
    """In this phase, from 0."""
    steps: int
    """Steps in this phase."""
    loss: float
    terms: dict[str, float]
    """Mean of each loss term before its weight; a term that did not apply is absent."""
    learning_rates: dict[str, float]
    """Kind of parameters -> its rate in this step."""
    gradient_norm: float
    """Before clipping."""
    identity_images: int
    """Predicted images in this step that the identity loss was asked to judge."""
    no_face_images: int
    """Those of them in which no face was found; they are left out of the loss."""
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

    def count(self, report: StepReport) -> None:
        """Take a finished step into account."""
        self.step += 1
        self.seconds += report.seconds
        self.identity_images += report.identity_images
        self.no_face_images += report.no_face_images


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training: what the same training, started again, needs to go on bit for bit."""

    tensors: dict[str, Tensor]
    """Parameters, the optimiser's state, and each process's random generator."""
    progress: Progress


def mean_terms(passes: list[BatchLoss]) -> dict[str, float]:
    """Each term's mean over the forward passes in which it applied."""
    values: dict[str, list[float]] = {}
    for one in passes:
        for name, of_samples in one.terms.items():
            if len(of_samples):
                values.setdefault(name, []).append(of_samples.mean().item())
    return {name: sum(means) / len(means) for name, means in values.items()}
