"""Optimisers by name, each imported when it is asked for; `training.optimizer` steps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcpkg.util.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS = Registry("optimizer")
"""`Method.optimizer` -> function of a list of parameter groups, as torch.optim takes them."""


@OPTIMIZERS.register("adamw")
def adamw(groups: list[dict]) -> Optimizer:
    from torch.optim import AdamW

    on_cpu = groups[0]["params"][0].device.type == "cpu"
    return AdamW(groups, fused=on_cpu or None)  # one pass over each parameter; on a GPU torch chooses


@OPTIMIZERS.register("adamw8bit")
def adamw_8bit(groups: list[dict]) -> Optimizer:
    """AdamW whose moments take a quarter of the memory.

    Raises:
        ValueError: bitsandbytes is not installed, or does not run here.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        advice = "pip install 'mcpkg[gpu]', or take adamw."
        raise ValueError(f"optimizer 'adamw8bit': needs bitsandbytes ({error}). {advice}") from None
    return AdamW8bit(groups)
