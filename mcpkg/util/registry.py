"""Registries: functions by name, each added by one decorator."""

import re
from collections.abc import Callable, Sequence
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

    `RESTORERS["gfpgan"]` is the function, `tuple(RESTORERS)` the names to choose from.

    Args:
        kind: what is registered, in the singular, for error messages.
        homes: modules whose functions register themselves when they are imported. They are imported when one of their
            functions is asked for; their names are read from their source, for help and checks must not load torch.
    """

    def __init__(self, kind: str, homes: Sequence[str] = ()):
        super().__init__()
        self.kind, self.homes = kind, tuple(homes)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, also those of homes that are not imported yet, in the order of the source."""
        sources = (Path(find_spec(home).origin).read_text(encoding="utf-8") for home in self.homes)
        written = [
            name for source in sources for name in re.findall(r'^@\w+\.register\("(\w+)"\)', source, re.MULTILINE)
        ]
        return tuple(dict.fromkeys([*written, *self]))

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
        """Import the homes, for the name may be theirs; `get` and `in` do not call this.

        Raises:
            ValueError: the name is not registered; the message lists those that are.
        """
        for home in self.homes:
            import_module(home)
        if name in self:
            return self[name]
        raise ValueError(f"{self.kind} {name!r} unknown. Choose from {list(self.names)}.")
