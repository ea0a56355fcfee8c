"""A method's fields as options: each unset unless given, each with its own sentence as help."""

import ast
import inspect
from dataclasses import fields, make_dataclass, replace
from typing import Annotated, get_type_hints

import tyro

from mcpkg.method.config import LossWeights, Method, Phase, with_weights

_PER_METHOD = tuple(field.name for field in fields(Method) if field.name not in ("name", "phases"))
_PER_PHASE = ("learning_rate", "embedding_learning_rate", "max_timestep")


def sentences(cls: type) -> dict[str, str]:
    """Field -> the string below it in the source."""
    (body,) = ast.parse(inspect.getsource(cls)).body
    told = {}
    for statement, after in zip(body.body, body.body[1:]):
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
            told[statement.target.id] = " ".join(ast.literal_eval(after.value).split())
    return told


def optional(cls: type, names: tuple[str, ...], note: str = "") -> list[tuple]:
    """Fields for `make_dataclass`: those of `cls`, each None by default."""
    hints, told = get_type_hints(cls), sentences(cls)
    return [
        (name, Annotated[hints[name] | None, tyro.conf.arg(help=told[name] + note, help_behavior_hint="")], None)
        for name in names
    ]


Weights = make_dataclass(
    "Weights", optional(LossWeights, tuple(field.name for field in fields(LossWeights))), frozen=True,
)  # fmt: skip
Weights.__doc__ = "In every phase that has the term."
Changes = make_dataclass(
    "Changes",
    [
        ("phase_steps", Annotated[tuple[int, ...], tyro.conf.arg(help="Optimiser steps, one number a phase.")], ()),
        *optional(Phase, _PER_PHASE, " In every phase."),
        *optional(Method, _PER_METHOD),
    ],
    frozen=True,
)
Changes.__doc__ = "Instead of what the method has, once it was suited to the backend."


def changed(method: Method, changes: Changes, weights: Weights) -> Method:
    """The method with what was given replaced; its name then tells so.

    Raises:
        ValueError: a value out of range, not a number for each phase, or a weight of a term that no phase has.
    """
    given = {name: value for name, value in vars(changes).items() if value not in (None, ())}
    of_weights = {name: value for name, value in vars(weights).items() if value is not None}
    if not given and not of_weights:
        return method
    told = "; ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in (given | of_weights).items())
    steps = given.pop("phase_steps", tuple(phase.steps for phase in method.phases))
    if len(steps) != len(method.phases):
        raise ValueError(f"--phase-steps: {len(steps)} given, and {method.name} has {len(method.phases)} phases.")
    for name, value in of_weights.items():
        if not isinstance(value, str) and all(getattr(phase.weights, name) == 0 for phase in method.phases):
            raise ValueError(f"--weights.{name.replace('_', '-')}: {method.name} has no such term in any phase.")
    per_phase = {name: given.pop(name) for name in _PER_PHASE if name in given}
    phases = tuple(replace(phase, steps=n, **per_phase) for phase, n in zip(method.phases, steps, strict=True))
    return with_weights(replace(method, phases=phases, **given), f"{method.name} ({told})", **of_weights)


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
