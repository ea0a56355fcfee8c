"""A stand-in for a module that torchvision has dropped and basicsr 1.4.2 still imports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mcpkg.util.optional import import_optional

GONE = "torchvision.transforms.functional_tensor"


@contextmanager
def old_torchvision() -> Iterator[None]:
    """Within the block, `from torchvision.transforms.functional_tensor import rgb_to_grayscale` works.

    Raises:
        MissingPackage: torchvision is not installed.
    """
    if GONE in sys.modules:
        yield
        return
    module = ModuleType(GONE)
    module.rgb_to_grayscale = import_optional("torchvision.transforms.functional", "restore").rgb_to_grayscale
    sys.modules[GONE] = module
    try:
        yield
    finally:
        del sys.modules[GONE]
