"""Packages whose names are imported on first use (PEP 562), so that importing one part does not load torch for all."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        exports: module below it -> the names that the package exports from there, separated by spaces.
    """
    home = {name: f"{package}.{module}" for module, names in exports.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}. Public names: {', '.join(sorted(home))}."
            )
        return getattr(import_module(home[name]), name)

    return __getattr__, lambda: sorted(home), sorted(home)


def import_function(path: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names.

    Raises:
        ImportError, AttributeError: no such module, or no such function in it.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
