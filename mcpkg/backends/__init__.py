"""Models that fulfil `method.interfaces`. Imports world, data, method and util.

A backend is a folder here and one line in `BACKENDS`; outside backends/ and cli/ no code names one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mcpkg.method.config import MAX_VECTORS, Method
from mcpkg.method.recipes import RECIPES
from mcpkg.util.lazy import import_function

if TYPE_CHECKING:
    from mcpkg.method.interfaces import Backend


@dataclass(frozen=True)
class BackendEntry:
    """One backend of the registry."""

    loader: str
    """Function that loads it, as "module:function"; called with `device` and keyword arguments, imported only then."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that are always passed to the loader."""
    options: tuple[str, ...] = ()
    """Further keyword arguments of the loader that a user may choose."""
    tuning: str = ""
    """Function that is the backend's `tune`, as "module:function" in a module that loads no torch; empty if its
    settings cannot make a valid method invalid."""
    recipes: tuple[str, ...] = ()
    """Names of `method.recipes.RECIPES` that suit it instead of its `tune`; empty if only that does."""
    price: str = ""
    """Function of a method and a number of images that says in a line what a training costs, as "module:function" in a
    module that loads no torch; empty if it costs little."""
    max_vectors: int = MAX_VECTORS
    """Embedding vectors per placeholder for which its text encoder has room."""
    built_in: bool = False
    """Whether its weights are in the package, so that its numbers are the same everywhere."""


BACKENDS: dict[str, BackendEntry] = {
    "mini": BackendEntry(
        "mcpkg.backends.mini:load_mini",
        tuning="mcpkg.backends.mini.tuning:tune",
        max_vectors=11,
        built_in=True,
    ),
    "mini-balanced": BackendEntry(
        "mcpkg.backends.mini:load_mini",
        {"population": "balanced"},
        tuning="mcpkg.backends.mini.tuning:tune",
        max_vectors=11,
        built_in=True,
    ),
    "sd15": BackendEntry(
        "mcpkg.backends.sd15:load_sd15",
        options=("checkpoint", "precision", "safety", "identity", "face_parts", "checkpointing"),
        tuning="mcpkg.backends.sd15.tuning:tune",
        recipes=tuple(RECIPES),
        price="mcpkg.backends.sd15.price:price_line",
    ),
}
"""Name -> backend; the first is the default."""
BUILT_IN = tuple(name for name, entry in BACKENDS.items() if entry.built_in)


def best_backend() -> str:
    """Return the name of the best backend that this machine can run now, without a download."""
    import torch

    from mcpkg.backends.downloads import WEIGHTS

    needed = (published for published in WEIGHTS.values() if published.needed)
    return "sd15" if torch.cuda.is_available() and all(published.is_there for published in needed) else "mini"


def best_device(name: str) -> str:
    """Return "cpu" for the built-in models, which are small and tested only there; for others a GPU if there is one."""
    import torch

    return "cuda" if name not in BUILT_IN and torch.cuda.is_available() else "cpu"


def tune_without_models(name: str, method: Method) -> Method:
    """What the backend's `tune` gives, without its models."""
    tuning = BACKENDS[name].tuning
    return import_function(tuning)(method) if tuning else method


def with_recipe(name: str, method: Method, recipe: str) -> Method:
    """The method with a recipe's settings instead of those of the backend's `tune`; its name then says so.

    Raises:
        ValueError: the backend does not take the recipe, or the method does not.
    """
    known = BACKENDS[name].recipes
    if recipe not in known:
        others = [other for other, entry in BACKENDS.items() if recipe in entry.recipes]
        raise ValueError(f"recipe: {recipe!r} is none of backend {name!r}. Give backend {' or '.join(others)}.")
    suited = RECIPES[recipe].apply(method)
    return replace(suited, name=f"{method.name} (recipe {recipe})") if recipe != known[0] else suited


def check_choices(name: str, choices: Mapping[str, Any]) -> None:
    """Raise unless a backend has that name and these options; nothing is loaded.

    Raises:
        ValueError: no backend of that name, or a choice that it does not have.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not known. Choose one of: {', '.join(BACKENDS)}.")
    entry = BACKENDS[name]
    if unknown := [choice for choice in choices if choice not in entry.options]:
        others = [other for other in BACKENDS if set(unknown) <= set(BACKENDS[other].options)]
        advice = f"Give backend {' or '.join(others)}." if others else f"It has: {', '.join(entry.options) or 'none'}."
        raise ValueError(f"{', '.join(unknown)}: nothing to choose in backend {name!r}. {advice}")


def load_backend(name: str = "mini", device: str = "cpu", **choices: Any) -> "Backend":
    """Load a backend's models from disk.

    Args:
        name: one of `BACKENDS`; "mini-balanced" is "mini" after further training on a population without its bias.
        device: where the models run, as torch names it.
        choices: of the backend's `BackendEntry.options`; those of sd15 are explained in `sd15.load_sd15`.

    Raises:
        ValueError: no backend of that name, or a choice that it does not have.
        FileNotFoundError: weights are missing; the message names how to get them.
    """
    check_choices(name, choices)
    entry = BACKENDS[name]
    return import_function(entry.loader)(device, **entry.arguments, **choices)
