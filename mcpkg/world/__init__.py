"""The rendered world and its truth: people, looks, shots, the renderer, captions and samples. Imports util only."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "captions": "describe write_captions",
        "render": "Renders render_portraits",
        "samples": "make_samples",
        "seeds": "UNSEEN",
        "world": (
            "ATTRIBUTES BALANCED IDENTITY NUISANCE PARTS WEB Looks Nuisance People Population code readable "
            "sample_nuisance"
        ),
    },
)
