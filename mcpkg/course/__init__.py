"""What the notebooks share: models, samples and trainings done once, and the code of single lessons. Imports viz,
metrics, backends and what those may import.
"""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bias": "HUMANS TONES estimate_faces picture_in_every_tone picture_people read_faces to_tone",
        "few_shot": "train_few_shot",
        "mask_errors": "drop_mask mask_error with_face_masks",
        "one_step": "estimate_x0 x0_gradient",
        "session": "Course check open_course reveal",
    },
)
