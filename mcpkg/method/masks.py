"""Masks of each role (M_s and M_r) from a face mask, and the same at the sizes of latents and attention maps.

Face masks come from a backend's face parser, or from files: see `data.portraits`.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

THRESHOLD = 1 / 8
"""Covered fraction of a cell below which it is left out; a line one pixel wide covers this much of a cell of 8 x 8."""


def role_region(role: str, face: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """M_s or M_r: where a role's images are reconstructed (Eqs. 4-6) and its placeholder may be attended to (Eq. 8).

    Args:
        role: "source": the face, because a source image teaches the person, not the background or the clothes.
            "reference": everything but the face, because a reference image teaches everything but the person.
        face: 1 on the face, 0 elsewhere.

    Raises:
        ValueError: an unknown role.
    """
    if role not in ("source", "reference"):
        raise ValueError(f"role: {role!r} unknown. Choose 'source' or 'reference'.")
    return face if role == "source" else 1 - face


def to_latent_mask(mask: Float[Tensor, "b 1 h w"], size: int | tuple[int, int]) -> Float[Tensor, "b 1 k l"]:
    """Shrink a mask to the size of latents.

    Each cell holds the fraction of it that the mask covers, or 0 below `THRESHOLD`. A part too small to reach that in
    any cell would be lost: there the mask's maximum counts instead, so that no mask ends up empty and small parts
    stay. Next to kept cells nothing is restored, or outlines would grow. The common nearest-pixel method loses such
    parts.

    Args:
        mask: values in [0, 1].
        size: side, or height and width, in latent cells.

    Raises:
        ValueError: a mask is empty (below one half everywhere); a loss over it would divide by almost zero.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height > mask.shape[-2] or width > mask.shape[-1]:
        raise ValueError(f"cannot shrink a mask of {tuple(mask.shape[-2:])} to {(height, width)}: it would grow.")
    empty = (mask.amax(dim=(1, 2, 3)) < 0.5).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"masks {empty} are empty. Check the face parser's result or the mask files.")
    fraction = functional.adaptive_avg_pool2d(mask, (height, width))  # b 1 k l
    kept = fraction * (fraction >= THRESHOLD)
    most = functional.adaptive_max_pool2d(mask, (height, width))
    lost = (most >= 0.5) & (functional.max_pool2d(kept, 3, stride=1, padding=1) == 0)  # no cell kept nearby
    return kept + most * lost


def lift_mask(mask: Float[Tensor, "b 1 h w"], floor: float) -> Float[Tensor, "b 1 h w"]:
    """(m + floor) / (1 + floor): 1 stays 1, and 0 is raised to a little above 0."""
    return (mask + floor) / (1 + floor)


def to_attention_mask(mask: Float[Tensor, "b 1 h w"], size: int | tuple[int, int]) -> Float[Tensor, "b 1 k l"]:
    """Where a placeholder may attend on a coarse attention map: each cell holds the mask's maximum in it.

    More generous than `to_latent_mask`: within a cell, attention inside and outside the mask cannot be separated.
    """
    return functional.adaptive_max_pool2d(mask, size)


def grow_mask(mask: Float[Tensor, "b 1 h w"], px: int) -> Float[Tensor, "b 1 h w"]:
    """Widen a mask by `px` pixels on every side, or narrow it if `px` is negative; 0 leaves it as it is.

    Args:
        px: each pixel takes the maximum (or minimum) of a square with a side of 2 |px| + 1.
    """
    side = 2 * abs(px) + 1
    widest = functional.max_pool2d(mask if px >= 0 else -mask, side, stride=1, padding=abs(px))
    return widest if px >= 0 else -widest


def shift_mask(mask: Float[Tensor, "b 1 h w"], right_px: int = 0, down_px: int = 0) -> Float[Tensor, "b 1 h w"]:
    """Move a mask; what leaves the frame is lost, zeros fill the rest. Negative numbers move to the left and up."""
    return functional.pad(mask, (right_px, -right_px, down_px, -down_px))
