"""Shared code of the notebooks: models, samples and training runs done once, and code of single lessons.

Imports viz, metrics, backends and what those may import.
"""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bias": "HUMANS estimate_faces read_attributes read_faces render_in_every_tone render_people",
        "few_shot": "train_few_shot",
        "mask_errors": "drop_mask mask_error with_face_masks",
        "one_step": "estimate_x0 x0_gradient",
        "session": "Course check open_course reveal",
    },
)
