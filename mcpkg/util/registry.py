"""Registries: functions by name, each added by one decorator."""

from collections.abc import Callable
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
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

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
        """Raise for a name that is not registered; `get` and `in` do not call this.

        Raises:
            ValueError: always; the message lists the names.
        """
        raise ValueError(f"{self.kind} {name!r} unknown. Choose from {list(self)}.")
