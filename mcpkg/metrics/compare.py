"""Methods side by side on the same people, looks and seeds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.metrics.evaluate import evaluate_portraits
from mcpkg.metrics.scores import Scores
from mcpkg.training.keep_best import CheckpointScore
from mcpkg.training.trainer import TrainingState, open_training


@dataclass(frozen=True)
class Outcome:
    """What one method made of one pair of source and reference."""

    adapter: Adapter
    generated: Generated
    scores: Scores
    history: tuple[dict, ...] = ()
    """Every training step, as StepReport's fields; empty if they were not recorded."""
    checkpoint_scores: tuple[CheckpointScore, ...] = ()
    """From which checkpoints the adapter is the best; empty if it is the last."""
    seconds: float = 0.0
    """Training, generation and scoring together; a first phase that was shared counts for the first method only."""

    @property
    def name(self) -> str:
        return self.adapter.method.name

    def as_dict(self) -> dict:
        """Ready for JSON."""
        return self.scores.as_dict() | {
            "seconds": round(self.seconds, 1),
            "seconds_training": self.adapter.record.get("seconds"),
            "no_face_images_in_training": self.adapter.record.get("no_face_images"),
        }


def compare_methods(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    methods: Sequence[Method],
    seed: int = 0,
    sampling: Sampling = Sampling(),
    precision: str | None = None,
) -> dict[str, Outcome]:
    """Train each method on the same pair and draw the same seeds with each: name -> outcome.

    What methods have in common in their first phase is trained once; each adapter is what `personalise` would give.

    Args:
        seed: of the trainings.
        sampling: see `generate_portraits`.
    """
    outcomes, started = {}, time.perf_counter()
    for adapter, history in train_methods(backend, source, reference, methods, seed, precision):
        outcomes[adapter.method.name] = judge(backend, adapter, source, reference, sampling, history, started)
        started = time.perf_counter()
    return outcomes


def judge(
    backend: Backend,
    adapter: Adapter,
    source: Portraits,
    reference: Portraits,
    sampling: Sampling = Sampling(),
    history: Sequence[dict] = (),
    started: float | None = None,
    prompt: str | None = None,
) -> Outcome:
    """Generate portraits with attention maps and score them.

    Args:
        sampling, prompt: see `generate_portraits`; the seed is also that of the bootstrap.
        started: when the outcome's seconds begin, by time.perf_counter; by default now.
    """
    started = time.perf_counter() if started is None else started
    generated = generate_portraits(backend, adapter, prompt, sampling, capture=True)
    scores = evaluate_portraits(backend, generated, source, reference, sampling.seed)
    return Outcome(adapter, generated, scores, tuple(history), seconds=time.perf_counter() - started)


def train_methods(
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    methods: Sequence[Method],
    seed: int,
    precision: str | None = None,
    progress: bool = True,
) -> Iterator[tuple[Adapter, list[dict]]]:
    """Yields each method's adapter and its history of steps; phases that begin alike are trained once."""
    shared: dict[tuple, tuple[TrainingState, list[dict]]] = {}
    for method in methods:
        start, history = _start(method), []
        with open_training(backend, source, reference, method, seed, precision) as training:
            if start in shared:
                state, history = shared[start]
                training.restore(state)
            history = list(history)
            for report in training.steps(progress):
                history.append(asdict(report))
                first_phase_ends = (report.phase, report.step) == (0, report.steps - 1)
                if first_phase_ends and start not in shared and sum(_start(other) == start for other in methods) > 1:
                    shared[start] = training.state(), list(history)
            adapter = training.adapter()
        yield adapter, history


def untrained(backend: Backend, source: Portraits, reference: Portraits, method: Method, seed: int = 0) -> Adapter:
    """The method's adapter before its first step: placeholders that still mean ordinary words."""
    with open_training(backend, source, reference, method, seed) as training:
        return replace(training.adapter(), method=replace(method, name="untrained"))


def _start(method: Method) -> tuple:
    """All that the first phase's outcome depends on: the same for methods that differ only in later phases."""
    trains = frozenset(kind for phase in method.phases for kind in phase.trains)
    tasks = frozenset(task for phase in method.phases for task in phase.tasks)  # of all these latents are prepared
    return replace(method, name="start", phases=method.phases[:1]), trains, tasks
