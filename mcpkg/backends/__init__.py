"""The only place that knows the backends by name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpkg.backends.base import Backend

BACKENDS = ("mini", "mini-balanced")


def best_backend() -> str:
    """The best of the backends that this machine can run now, without a download."""
    return "mini"


def load_backend(name: str = "mini", device: str = "cpu") -> "Backend":
    """Load a backend's models from disk.

    Args:
        name: one of `BACKENDS`; "mini-balanced" is "mini" trained on, from a population without its bias.
        device: where the models run, as torch names it.

    Raises:
        ValueError: no backend of that name.
    """
    if name in ("mini", "mini-balanced"):
        from mcpkg.backends.mini import load_mini

        return load_mini(device, population="balanced" if name == "mini-balanced" else "web")
    raise ValueError(f"backend {name!r} is not known. Choose one of: {', '.join(BACKENDS)}.")
