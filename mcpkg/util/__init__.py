"""Errors, files, registries, tensors on disk, images, statistics: used by every package. Imports nothing of mcpkg."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "images": "overlay",
        "statistics": "bootstrap_interval mean_pairwise_cosine",
    },
)
