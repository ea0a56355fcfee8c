"""The built-in model of rendered portraits, for inference: its networks, and settings that suit them."""

from mcpkg.backends.mini.backend import load_mini

__all__ = ["load_mini"]
