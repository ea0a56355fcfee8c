"""A method's fields as options: each unset unless given, each with its own docstring as help."""

import ast
import inspect
import re
from dataclasses import fields, make_dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal, get_type_hints

import tyro

from mcpkg.method.config import (
    IDENTITY_DECODINGS,
    IDENTITY_PASSES,
    LORA_LAYERS,
    LORA_TOKENS,
    OPTIMIZERS,
    REFOCUSING_FORMS,
    REFOCUSING_SCALES,
    TEMPLATE_NAMES,
    WEIGHTINGS,
    LossWeights,
    Method,
    Phase,
    Refocusing,
)
from mcpkg.method.variations import with_refocusing, with_weights

_PER_METHOD = tuple(field.name for field in fields(Method) if field.name not in ("name", "phases"))
_PER_PHASE = tuple(
    field.name for field in fields(Phase) if field.name not in ("steps", "trains", "tasks", "weights", "refocusing")
)
_FLAGS = {"Method": "--", "Phase": "--", "LossWeights": "--weights.", "Refocusing": "--refocusing."}
_CHOICES = {
    "form": REFOCUSING_FORMS.names,
    "scale": REFOCUSING_SCALES,
    "lora_layers": LORA_LAYERS,
    "lora_tokens": LORA_TOKENS,
    "weighting": WEIGHTINGS,
    "identity_decoding": IDENTITY_DECODINGS,
    "identity_pass": IDENTITY_PASSES,
    "templates": TEMPLATE_NAMES,
    "optimizer": OPTIMIZERS.names,
}


def field_docs(cls: type) -> dict[str, str]:
    """Field -> the string below it in the source."""
    (body,) = ast.parse(inspect.getsource(cls)).body
    return {
        statement.target.id: " ".join(ast.literal_eval(after.value).split())
        for statement, after in pairwise(body.body)
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def optional_fields(cls: type, names: tuple[str, ...], note: str = "") -> list[tuple]:
    """Fields for `make_dataclass`: those of `cls`, each None by default."""
    hints, docs = get_type_hints(cls), field_docs(cls)
    return [
        (
            name,
            Annotated[
                (Literal[_CHOICES[name]] if name in _CHOICES else hints[name]) | None,
                tyro.conf.arg(help=docs[name] + note, help_behavior_hint=""),
            ],
            None,
        )
        for name in names
    ]


WeightOverrides = make_dataclass(
    "WeightOverrides", optional_fields(LossWeights, tuple(vars(LossWeights()))), frozen=True
)
WeightOverrides.__doc__ = "For research: weights of loss terms, in every phase that has the term."
RefocusingOverrides = make_dataclass(
    "RefocusingOverrides", optional_fields(Refocusing, tuple(vars(Refocusing()))), frozen=True
)
RefocusingOverrides.__doc__ = "For research: Attention Refocusing, in every phase that has it."
Overrides = make_dataclass(
    "Overrides",
    [
        ("phase_steps", Annotated[tuple[int, ...], tyro.conf.arg(help="Optimiser steps, one number a phase.")], ()),
        *optional_fields(Phase, _PER_PHASE, " In every phase."),
        *optional_fields(Method, _PER_METHOD),
    ],
    frozen=True,
)
Overrides.__doc__ = "For research: settings to replace after the method was suited to the backend."


def apply_overrides(
    method: Method, overrides: Overrides, weights: WeightOverrides, refocusing: RefocusingOverrides
) -> Method:
    """The method with what was given replaced; its name then lists the changes.

    Raises:
        ValueError: a value out of range, not a number for each phase, or a weight of a term that no phase has; names
            the option.
    """
    try:
        return _apply(method, overrides, weights, refocusing)
    except ValueError as error:
        flag = re.match(r"(Method|Phase|LossWeights|Refocusing)\.(\w+)", str(error))
        if flag is None:
            raise
        name = "phase_steps" if flag[2] == "steps" else flag[2]
        raise ValueError(f"{_FLAGS[flag[1]]}{name.replace('_', '-')}{str(error)[flag.end() :]}") from None


def _apply(method: Method, overrides: Overrides, weights: WeightOverrides, refocusing: RefocusingOverrides) -> Method:
    given = _given(overrides)
    of_weights, of_refocusing = _given(weights), _given(refocusing)
    if not given and not of_weights and not of_refocusing:
        return method
    named = given | of_weights | {f"refocusing {name}": value for name, value in of_refocusing.items()}
    changes_of = "; ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in named.items())
    name = f"{method.name} ({changes_of})"
    steps = given.pop("phase_steps", tuple(phase.steps for phase in method.phases))
    if len(steps) != len(method.phases):
        raise ValueError(f"--phase-steps: {len(steps)} given, and {method.name} has {len(method.phases)} phases.")
    if not any(steps):
        raise ValueError(f"--phase-steps: {_shown(tuple(steps))} trains nothing. Give a step or more to one phase.")
    for term in of_weights:
        if all(getattr(phase.weights, term) == 0 for phase in method.phases):
            raise ValueError(f"--weights.{term.replace('_', '-')}: {method.name} has no such term in any phase.")
    if of_refocusing and all(phase.refocusing.weight == 0 for phase in method.phases):
        raise ValueError(f"--refocusing.{next(iter(of_refocusing))}: {method.name} has no such term in any phase.")
    per_phase = {key: given.pop(key) for key in _PER_PHASE if key in given}
    phases = tuple(replace(phase, steps=n, **per_phase) for phase, n in zip(method.phases, steps, strict=True))
    method = replace(method, phases=phases, **given)
    return with_refocusing(with_weights(method, name, **of_weights), name, **of_refocusing)


def _given(options: object) -> dict:
    return {name: value for name, value in vars(options).items() if value not in (None, ())}


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
