"""Shared code of the notebooks: models, samples and training runs done once, and code of single lessons.

Imports viz, metrics, backends and what those may import.
"""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.course.bias import (
        HUMANS as HUMANS,
        estimate_faces as estimate_faces,
        read_attributes as read_attributes,
        read_faces as read_faces,
        render_in_every_tone as render_in_every_tone,
        render_people as render_people,
    )
    from mcpkg.course.few_shot import train_few_shot as train_few_shot
    from mcpkg.course.mask_errors import (
        drop_mask as drop_mask,
        mask_error as mask_error,
        with_face_masks as with_face_masks,
    )
    from mcpkg.course.one_step import estimate_x0 as estimate_x0, x0_gradient as x0_gradient
    from mcpkg.course.session import Course as Course, check as check, open_course as open_course, reveal as reveal

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
