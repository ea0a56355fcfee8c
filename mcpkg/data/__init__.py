"""Load a folder of pictures as portraits with face masks, and check the masks. Imports method and util."""

from mcpkg.util.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "face_crop": "FaceCrop crop_to_face",
        "image_files": "find_images open_picture read_image",
        "mask_check": "MaskFinding change_masks diagnose_masks",
        "portraits": "Portraits load_portraits",
    },
)
