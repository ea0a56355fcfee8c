"""Where each concept lives: face masks, and the same at the latents' size."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.backends.base import Faces


def source_mask(faces: Faces) -> Float[Tensor, "b 1 h w"]:
    """M_s: the face, for a source image teaches who, not where or in what clothes."""
    return faces.face_mask


def reference_mask(faces: Faces) -> Float[Tensor, "b 1 h w"]:
    """M_r: everything but the face, for a reference image teaches all but who."""
    return 1 - faces.face_mask


def to_latent_mask(mask: Float[Tensor, "b 1 h w"], size: int | tuple[int, int]) -> Float[Tensor, "b 1 k l"]:
    """Shrink a mask to the size of latents or of an attention map.

    Each cell holds the share of it that the mask covers, so that parts smaller than a cell
    weigh little but do not vanish, as they do when one picks the nearest pixel.

    Args:
        mask: values in [0, 1].
        size: side, or height and width, in latent cells.

    Raises:
        ValueError: a mask is empty; a loss over it would divide by zero.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height > mask.shape[-2] or width > mask.shape[-1]:
        raise ValueError(f"cannot shrink a mask of {tuple(mask.shape[-2:])} to {(height, width)}: it would grow.")
    empty = (mask.amax(dim=(1, 2, 3)) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"masks {empty} are empty. Check the face parser's result or the mask files.")
    return functional.adaptive_avg_pool2d(mask, (height, width))
