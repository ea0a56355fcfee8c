"""Masks that are wrong on purpose, to learn what a wrong mask costs: cut off, measured, and given to training."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.data.portraits import Portraits


def drop_mask(mask: Float[Tensor, "b 1 h w"], share: float) -> Float[Tensor, "b 1 h w"]:
    """Lose the lowest part of a mask, as beneath a scarf.

    Args:
        share: of each mask's area, in [0, 1]; whole rows are lost, the uppermost of them as far as needed.

    Raises:
        ValueError: share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not in [0, 1].")
    rows = mask.sum(dim=(1, 3))  # b h
    above = rows.cumsum(dim=1) - rows  # area above each row
    left = (1 - share) * rows.sum(dim=1, keepdim=True) - above  # what each row may keep
    return mask * (left / rows.clamp_min(1e-8)).clamp(0, 1)[:, None, :, None]


def mask_error(mask: Float[Tensor, "b 1 h w"], truth: Float[Tensor, "b 1 h w"]) -> float:
    """1 - intersection over union, a mean over masks: 0 where both are alike, 1 where they do not touch.

    Returns:
        NaN if any two are both empty.
    """
    both = torch.minimum(mask, truth).sum(dim=(1, 2, 3))  # b
    either = torch.maximum(mask, truth).sum(dim=(1, 2, 3))  # b
    return (1 - both / either.masked_fill(either == 0, math.nan)).mean().item()


def with_face_masks(portraits: Portraits, masks: Float[Tensor, "b 1 h w"]) -> Portraits:
    """The same portraits with other face masks: training reads these for reconstruction and refocusing alike.

    Raises:
        ValueError: masks of another number or size than the portraits' own.
    """
    own = portraits.faces.face_mask
    if masks.shape != own.shape:
        shapes = f"masks of shape {tuple(masks.shape)}, the portraits' own are {tuple(own.shape)}"
        raise ValueError(f"{shapes}. Give one for each portrait, of its size.")
    return replace(portraits, faces=replace(portraits.faces, face_mask=masks))
