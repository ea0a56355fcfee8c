"""basicsr 1.4.2 imports a module that torchvision has dropped; while it is imported, there is one of that name."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mcpkg.util.optional import import_optional

GONE = "torchvision.transforms.functional_tensor"


@contextmanager
def old_torchvision() -> Iterator[None]:
    """Within, `from torchvision.transforms.functional_tensor import rgb_to_grayscale` works."""
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
