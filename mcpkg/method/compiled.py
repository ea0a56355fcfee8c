"""Models under torch.compile: compiled code runs no hooks that were added later, so for a while it is left aside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mcpkg.method.model_walk import walk_modules

WRAPPED = "_orig_mod"
"""Where `torch.compile(model)` keeps the model."""


def original_model(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile` wraps; any other as it is."""
    return getattr(model, WRAPPED, model)


def original_name(name: str) -> str:
    """Return a module's name as it was before it, or a part of the model around it, was compiled."""
    return name.replace(f"{WRAPPED}.", "")


@contextmanager
def run_uncompiled(model: nn.Module) -> Iterator[None]:
    """Within the block, if the model or a part of it is compiled, all that is compiled runs as it was written.

    The compiled code is kept, and used again after the block.
    """
    if not any(_is_compiled(module) for _, module in walk_modules(model)):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    """By torch.compile(module), by module.compile(), or by module.forward = torch.compile(module.forward)."""
    by_itself = getattr(module, "_compiled_call_impl", None) is not None
    return WRAPPED in module._modules or by_itself or hasattr(module.forward, "_torchdynamo_orig_callable")
