"""Load a folder of pictures as portraits with face masks, and check the masks. Imports method and util."""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.data.face_crop import FaceCrop as FaceCrop, crop_to_face as crop_to_face
    from mcpkg.data.image_files import open_picture as open_picture, read_image as read_image
    from mcpkg.data.image_folders import find_images as find_images
    from mcpkg.data.mask_check import (
        MaskFinding as MaskFinding,
        change_masks as change_masks,
        diagnose_masks as diagnose_masks,
    )
    from mcpkg.data.portraits import Portraits as Portraits, load_portraits as load_portraits

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
