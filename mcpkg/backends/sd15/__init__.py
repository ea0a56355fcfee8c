"""Stable Diffusion 1.x, with models that look at photographs of faces."""

from mcpkg.backends.sd15.models import load_sd15

__all__ = ["load_sd15"]
