"""Stable Diffusion 1.x, with models that look at photographs of faces."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.backends.sd15.models import load_sd15 as load_sd15

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
