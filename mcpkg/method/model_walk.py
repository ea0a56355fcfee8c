"""A walk over a model's modules that is quick enough for every training step."""

from collections.abc import Iterator

from torch import nn


def walk_modules(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules like `model.named_modules()`, without what is inside a layer that has a LoRA.

    Those parts are most of the modules of a UNet with LoRA on all layers.
    """
    yield name, model
    if "base_layer" not in model._modules:  # hasattr is slow on a module that lacks it
        for part, module in model._modules.items():
            if module is not None:
                yield from walk_modules(module, f"{name}.{part}" if name else part)
