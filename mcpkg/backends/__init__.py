"""The only place that knows the backends by name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpkg.method.interfaces import Backend

BUILT_IN = ("mini", "mini-balanced")
"""Those whose weights are in the package, so that their numbers are the same everywhere."""
BACKENDS = (*BUILT_IN, "sd15")


def best_backend() -> str:
    """The best of the backends that this machine can run now, without a download."""
    import torch

    from mcpkg.backends.downloads import WEIGHTS

    needed = (published for published in WEIGHTS.values() if published.needed)
    return "sd15" if torch.cuda.is_available() and all(published.is_there for published in needed) else "mini"


def best_device(name: str) -> str:
    """The processor for the built-in models, which are small and were only run there; for others a GPU, if there is one."""
    import torch

    return "cuda" if name not in BUILT_IN and torch.cuda.is_available() else "cpu"


def load_backend(name: str = "mini", device: str = "cpu", **choices) -> "Backend":
    """Load a backend's models from disk.

    Args:
        name: one of `BACKENDS`; "mini-balanced" is "mini" trained on, from a population without its bias.
        device: where the models run, as torch names it.
        choices: checkpoint, precision and others of `sd15.load_sd15`; the built-in models leave none.

    Raises:
        ValueError: no backend of that name, or a choice that it does not have.
        FileNotFoundError: weights are missing; says how to get them.
    """
    if name in BUILT_IN:
        from mcpkg.backends.mini.backend import load_mini

        if choices:
            raise ValueError(f"{', '.join(choices)}: nothing to choose in backend {name!r}. Give backend sd15.")
        return load_mini(device, population="balanced" if name == "mini-balanced" else "web")
    if name == "sd15":
        from mcpkg.backends.sd15 import load_sd15

        return load_sd15(device, **choices)
    raise ValueError(f"backend {name!r} is not known. Choose one of: {', '.join(BACKENDS)}.")
