"""Optimisers by name, each imported when it is asked for; `training.optimizer` steps them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcpkg.util.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS = Registry("optimizer")
"""`Method.optimizer` -> function of a list of parameter groups, as torch.optim takes them."""
NEEDS = {"adamw8bit": ("bitsandbytes", "gpu"), "prodigy": ("prodigyopt", "prodigy")}
"""Optimiser -> the package that it needs beside the base install, and the extra that brings it."""
FINDS_RATE = {"prodigy": ("d", "d_max", "d_numerator", "k")}
"""Optimiser that finds its learning rate -> what it keeps for each group of parameters; "d" is the rate so far."""


def check_package(name: str) -> None:
    """Raise unless the optimiser's package is installed; nothing is imported.

    Raises:
        ValueError: it is not.
    """
    if name in NEEDS and find_spec(NEEDS[name][0]) is None:
        raise _missing(name, "which is not installed")


def _missing(name: str, reason: str) -> ValueError:
    package, extra = NEEDS[name]
    return ValueError(f"optimizer {name!r}: needs {package}, {reason}. pip install 'mcpkg[{extra}]', or take adamw.")


@OPTIMIZERS.register("adamw")
def adamw(groups: list[dict]) -> Optimizer:
    from torch.optim import AdamW

    parameters = [parameter for group in groups for parameter in group["params"]]
    # Its fused step reads parameters and loaded moments in one order of memory, whatever theirs is.
    fused = all(parameter.device.type == "cpu" and parameter.is_contiguous() for parameter in parameters)
    return AdamW(groups, fused=fused or None)


@OPTIMIZERS.register("adamw8bit")
def adamw_8bit(groups: list[dict]) -> Optimizer:
    """AdamW whose moments take a quarter of the memory.

    Raises:
        ValueError: bitsandbytes is not installed, or does not run here.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        raise _missing("adamw8bit", f"which does not run here ({error})") from None
    return AdamW8bit(groups)


@OPTIMIZERS.register("prodigy")
def prodigy(groups: list[dict]) -> Optimizer:
    """Prodigy (Mishchenko and Defazio 2023, arXiv 2306.06101), which finds the learning rate.

    Args:
        groups: their "lr" is a factor on the rate that is found, 1 by convention, and the same for all.

    Raises:
        ValueError: prodigyopt is not installed.

    Note:
        With its safeguard for warm-ups as well, a quadratic loss was hardly lower after 100 steps.
    """
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise _missing("prodigy", f"which does not run here ({error})") from None
    return Prodigy(groups, use_bias_correction=True)
