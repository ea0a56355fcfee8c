"""Errors, files, registries, tensors on disk, images, statistics: used by every package. Imports nothing of mcpkg."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.util.images import overlay as overlay
    from mcpkg.util.statistics import (
        bootstrap_interval as bootstrap_interval,
        mean_pairwise_cosine as mean_pairwise_cosine,
    )

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
