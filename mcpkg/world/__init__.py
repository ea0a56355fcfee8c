"""The rendered world and its ground truth: attributes, populations, renderer, captions, samples. Imports util only."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attributes": (
            "ATTRIBUTES IDENTITY MONK_TONES NUISANCE PARTS Looks Nuisance People code readable sample_nuisance "
            "skin_to_tone tone_to_skin"
        ),
        "captions": "describe write_captions",
        "population": "BALANCED UNSEEN WEB Population",
        "render": "Renders render_portraits",
        "samples": "make_samples",
    },
)
