"""The built-in model of rendered portraits, for inference: its networks, and settings that suit them."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.backends.mini.backend import load_mini as load_mini

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
