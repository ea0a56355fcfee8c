"""A method with something changed: other loss weights, another form of refocusing, or one task less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcpkg.method.config import LossWeights, Method, Phase


def with_weights(method: Method, name: str, **weights: float) -> Method:
    """The same method under other loss weights, in the phases that have those terms.

    Args:
        name: of the new method.
        weights: fields of LossWeights; each replaces only weights above 0, so that a term stays off in a phase that
            does not have it.
    """

    def change(old: LossWeights) -> LossWeights:
        return replace(old, **{term: weight for term, weight in weights.items() if getattr(old, term) > 0})

    return replace(method, name=name, phases=tuple(replace(p, weights=change(p.weights)) for p in method.phases))


def with_refocusing(method: Method, name: str, **settings: Any) -> Method:
    """The same method under another form, scale or weight of refocusing, in the phases that have it.

    Args:
        name: of the new method.
        settings: fields of Refocusing.
    """

    def change(phase: Phase) -> Phase:
        return (
            replace(phase, refocusing=replace(phase.refocusing, **settings)) if phase.refocusing.weight > 0 else phase
        )

    return replace(method, name=name, phases=tuple(map(change, method.phases)))


def without_task(method: Method, task: str, name: str) -> Method:
    """The same method without one task in any phase; dropping "composed" drops the identity loss with it, and composed
    prompts for source photos."""

    def change(phase: Phase) -> Phase:
        tasks = tuple(t for t in phase.tasks if t != task)
        weights = replace(phase.weights, identity=0.0) if task == "composed" else phase.weights
        return replace(phase, tasks=tasks, weights=weights)

    composed_source = 0.0 if task == "composed" else method.composed_source
    return replace(method, name=name, phases=tuple(change(p) for p in method.phases), composed_source=composed_source)
