"""Registries: functions by name, each added by one decorator."""

import ast
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Registry(dict[str, F]):
    """Name -> function, in the order of registration.

        RESTORERS = Registry("restorer")

        @RESTORERS.register("gfpgan")
        def load_gfpgan(): ...

    `RESTORERS["gfpgan"]` is the function, `RESTORERS.names` the names to choose from.

    Args:
        kind: what is registered, in the singular, for error messages.
        homes: modules whose registrations, at their top level, are all for this registry. They are imported when one of
            their functions is asked for; their names are read from their source, because help and checks must not load
            torch.
    """

    def __init__(self, kind: str, homes: Sequence[str] = ()):
        super().__init__()
        self.kind, self.homes = kind, tuple(homes)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, also those of homes that are not imported yet, in the order of the source."""
        return tuple(dict.fromkeys([*self._names_in_homes, *self]))

    @cached_property
    def _names_in_homes(self) -> list[str]:
        found = []
        for home in self.homes:
            for node in ast.parse(Path(find_spec(home).origin).read_text(encoding="utf-8")).body:
                for decorator in getattr(node, "decorator_list", ()):
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".register"):
                        found.append(ast.literal_eval(decorator.args[0]))
        return found

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that adds a function under `name` and leaves the function as it is.

        Raises:
            ValueError: when the decorator is applied, if the name is taken.
        """

        def add(function: F) -> F:
            if name in self:
                raise ValueError(f"{self.kind} {name!r} is registered twice. Choose another name.")
            self[name] = function
            return function

        return add

    def __missing__(self, name: str) -> F:
        """Import the homes, which may register the name; `get` and `in` do not call this.

        Raises:
            ValueError: the name is not registered; the message lists those that are.
        """
        for home in self.homes:
            import_module(home)
        if name in self:
            return self[name]
        raise ValueError(f"{self.kind} {name!r} unknown. Choose from {list(self.names)}.")
