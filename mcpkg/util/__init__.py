"""What every package needs: errors, files, tensors on disk, images, statistics. Imports nothing of mcpkg."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "images": "overlay",
        "statistics": "bootstrap_interval mean_pairwise_cosine",
    },
)
