"""Optional packages, imported only when a backend needs them."""

import importlib
from types import ModuleType

from mcpkg.util.errors import MissingPackage, first_line

EXTRAS = {
    "face": "pip install 'mcpkg[face]'",
    "restore": "pip install 'mcpkg[restore]' in a separate environment, see `make test-real`",
    "gpu": "pip install 'mcpkg[gpu]'",
    "prodigy": "pip install 'mcpkg[prodigy]'",
    "tensorboard": "pip install 'mcpkg[tensorboard]'",
    "wandb": "pip install 'mcpkg[wandb]'",
    "trackio": "pip install 'mcpkg[trackio]'",
}
"""Extra -> the command that installs it."""


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a module of a package that the base install lacks.

    Raises:
        MissingPackage: the package is not installed, or cannot be imported.

    Note:
        A torchvision that was not built for the installed torch raises RuntimeError.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        package = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        found = "not installed" if absent else f"cannot be imported ({first_line(error)})"
        raise MissingPackage(f"{package}: {found}. {EXTRAS[extra]}") from None
