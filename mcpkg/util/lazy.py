"""Packages whose names are imported on first use (PEP 562), so that importing one part does not load torch for all."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that exports what its `if TYPE_CHECKING:` block imports.

    So type checkers and editors read the very list that is resolved at run time.

    Args:
        package, file: `__name__` and `__file__` of the package.
    """
    homes = {
        alias.asname or alias.name: node.module
        for block in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}. Public names: {', '.join(homes)}.")
        return getattr(import_module(homes[name]), name)

    return __getattr__, lambda: sorted(homes), list(homes)


def import_function(path: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names.

    Raises:
        ImportError, AttributeError: no such module, or no such function in it.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
