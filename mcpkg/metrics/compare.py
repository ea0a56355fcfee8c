"""What a method made of a pair of source and reference: portraits and their scores, also before it has learned."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import Generated, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.metrics.evaluate import evaluate_portraits
from mcpkg.metrics.scores import Scores
from mcpkg.training.keep_best import CheckpointScore
from mcpkg.training.trainer import open_training


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
    """Training, generation and scoring together."""

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


def judge_in_other_tools(
    backend: Backend, adapter: Adapter, source: Portraits, reference: Portraits, sampling: Sampling = Sampling()
) -> Outcome:
    """`judge` the portraits that tools without plain guidance draw; the outcome's name says so."""
    named = replace(adapter, method=replace(adapter.method, name=in_other_tools(adapter.method.name)))
    return judge(backend, named, source, reference, replace(sampling, plain_guidance=False))


def in_other_tools(name: str) -> str:
    """Name of a method's outcome in tools without plain guidance."""
    return f"{name} in other tools"


def untrained(backend: Backend, source: Portraits, reference: Portraits, method: Method, seed: int = 0) -> Adapter:
    """The method's adapter before its first step: placeholders that still mean ordinary words."""
    with open_training(backend, source, reference, method, seed) as training:
        return replace(training.adapter(), method=replace(method, name="untrained"))
