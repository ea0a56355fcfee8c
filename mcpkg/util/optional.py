"""Packages that only some backends need, imported when they are."""

import importlib
from types import ModuleType

from mcpkg.util.errors import MissingPackage

EXTRAS = {
    "face": "pip install 'mcpkg[face]'",
    "restore": "pip install 'mcpkg[restore]' in an environment of its own, see `make test-real`",
}
"""Extra -> how it is installed."""


def import_optional(module: str, extra: str) -> ModuleType:
    """A module of a package that the base install lacks.

    Raises:
        MissingPackage: it is not there, or cannot be imported.

    Note:
        A torchvision that was not built for the installed torch says so by a RuntimeError.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        package = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        found = "not installed" if absent else f"cannot be imported ({first_line})"
        raise MissingPackage(f"{package}: {found}. {EXTRAS[extra]}") from None
