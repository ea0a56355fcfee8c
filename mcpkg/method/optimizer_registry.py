"""Optimisers by name, each imported when it is asked for; `training.optimizer` steps them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcpkg.util.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

ADVICE = "pip install 'mcpkg[gpu]', or take adamw."
OPTIMIZERS = Registry("optimizer")
"""`Method.optimizer` -> function of a list of parameter groups, as torch.optim takes them."""


NEEDS = {"adamw8bit": "bitsandbytes"}
"""Optimiser -> the package that it needs beside the base install."""


def check_package(name: str) -> None:
    """Raise unless the optimiser's package is installed; nothing is imported.

    Raises:
        ValueError: it is not.
    """
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        raise ValueError(f"optimizer {name!r}: needs {NEEDS[name]}, which is not installed. {ADVICE}")


@OPTIMIZERS.register("adamw")
def adamw(groups: list[dict]) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(groups)


@OPTIMIZERS.register("adamw8bit")
def adamw_8bit(groups: list[dict]) -> Optimizer:
    """AdamW whose moments take a quarter of the memory.

    Raises:
        ValueError: bitsandbytes is not installed, or does not run here.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"optimizer 'adamw8bit': needs bitsandbytes ({error}). {ADVICE}") from None
    return AdamW8bit(groups)
