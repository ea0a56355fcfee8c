"""Masks with known errors, to measure what a wrong mask costs: make them, measure the error, give them to training."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits


def drop_mask(mask: Float[Tensor, "b 1 h w"], fraction: float) -> Float[Tensor, "b 1 h w"]:
    """Remove the lowest part of a mask, as if a scarf covered it.

    Args:
        fraction: of each mask's area, in [0, 1]; rows are removed from below, the last one partly.

    Raises:
        ValueError: `fraction` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in [0, 1].")
    rows = mask.sum(dim=(1, 3))  # b h
    above = rows.cumsum(dim=1) - rows  # area above each row
    left = (1 - fraction) * rows.sum(dim=1, keepdim=True) - above  # area that each row may keep
    return mask * (left / rows.clamp_min(1e-8)).clamp(0, 1)[:, None, :, None]


def mask_error(mask: Float[Tensor, "b 1 h w"], truth: Float[Tensor, "b 1 h w"]) -> float:
    """Compute 1 - intersection over union, mean over masks: 0 if mask and truth are equal, 1 if they do not overlap.

    Returns:
        The mean; NaN if mask and truth are both empty for any row.
    """
    both = torch.minimum(mask, truth).sum(dim=(1, 2, 3))  # b
    either = torch.maximum(mask, truth).sum(dim=(1, 2, 3))  # b
    return (1 - both / either.masked_fill(either == 0, math.nan)).mean().item()


def with_face_masks(portraits: Portraits, masks: Float[Tensor, "b 1 h w"]) -> Portraits:
    """Return the portraits with other face masks, which training reads for reconstruction and refocusing.

    Raises:
        ValueError: the masks differ in number or size from the portraits' masks.
    """
    own = portraits.faces.face_mask
    if masks.shape != own.shape:
        shapes = f"masks of shape {tuple(masks.shape)}, the portraits' masks are {tuple(own.shape)}"
        raise ValueError(f"{shapes}. Give one mask for each portrait, of its size.")
    return replace(portraits, faces=replace(portraits.faces, face_mask=masks))
