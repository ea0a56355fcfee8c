"""Attention Refocusing (Eq. 8): a placeholder may not be attended to outside its region.

Published alternatives, trained in its place by `Refocusing.form`, are in `attention_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.batch import placeholder_positions
from mcpkg.method.config import REFOCUSING_FORMS, Refocusing
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import lift_mask, role_region, to_attention_mask

SMALL = 1e-8


def scale_map(maps: Float[Tensor, "b heads h w"], scale: str = "max") -> Float[Tensor, "b heads h w"]:
    """S of Eq. 8: brings every map to [0, 1] on its own.

    Args:
        maps: attention, >= 0.
        scale: "max" divides by the maximum, with gradient; "detached_minmax" takes the minimum off and divides by the
            range, without gradient through either; "none" leaves the attention as it is.

    Raises:
        ValueError: for any other scale.

    Note:
        The authors' code scales by "detached_minmax", but after enlarging the map, and its loss differs from Eq. 8 in
        more: see `attention_losses.authors_refocusing`. Under "detached_minmax" the loss falls when the whole map
        shrinks, so that it can be met by attention to the token vanishing. Under "max" a map and its multiples have
        the same loss, whose gradient therefore moves attention instead of removing it: our default.
    """
    match scale:
        case "max":
            return maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(SMALL)
        case "detached_minmax":
            low = maps.amin(dim=(2, 3), keepdim=True).detach()
            high = maps.amax(dim=(2, 3), keepdim=True).detach()
            return (maps - low) / (high - low).clamp_min(SMALL)
        case "none":
            return maps
    raise ValueError(f"scale: {scale!r} unknown. Choose 'max', 'detached_minmax' or 'none'.")


@REFOCUSING_FORMS.register("mask")
def attention_refocusing(
    maps: Float[Tensor, "b heads h w"],
    mask: Float[Tensor, "b 1 H W"],
    scale: str = "max",
) -> Float[Tensor, " b"]:
    """Attention Refocusing, ||(S(A_k) - M_v) * not M_v||^2 (Eq. 8): a token's attention outside its mask.

    Args:
        maps: A_k of one layer, every head by itself.
        mask: M_v at any resolution, 1 where the token may look. A cell of the map counts as inside as far as
            any pixel under it does, so that no small part is lost on a coarse map.
        scale: S, see `scale_map`.

    Returns:
        One loss per sample, >= 0; 0 where the mask covers everything.

    Note:
        Averaged over the cells outside the mask and over heads (the paper sums), so that the weight
        means the same for every grid and every face size.
    """
    inside = to_attention_mask(mask.to(maps), maps.shape[-2:])  # b 1 h w
    outside = 1 - inside  # b 1 h w
    error = ((scale_map(maps, scale) - inside) * outside).square()  # b heads h w
    area = outside.sum(dim=(1, 2, 3)).clamp_min(1) * maps.shape[1]  # b
    return error.sum(dim=(1, 2, 3)) / area  # b


def refocusing_terms(
    maps: AttentionMaps, face: Float[Tensor, "b 1 h w"], refocusing: Refocusing, floor: float = 0.0
) -> Float[Tensor, " r"]:
    """Attention Refocusing, or the form that is asked for: one value per placeholder and prompt that holds it.

    The loss is a mean over grids; all layers of a grid count as heads of one.

    Args:
        maps: of the last forward pass, role -> layer -> maps.
        face: pixels of the face in each image of the batch.
        floor: `Method.mask_floor`, for the form "authors".

    Note:
        The values of one prompt are added up. Where the form averages them instead, each is divided by the number of
        the prompt's placeholders.
    """
    loss, terms = refocusing_loss(refocusing), []
    words = torch.stack(list(maps.rows.values())).sum(dim=0)  # b, placeholders of each prompt
    for role, rows in maps.rows.items():
        region = role_region(role, face)[rows.to(face.device)]  # r 1 h w
        if floor > 0 and refocusing.form == "authors":
            region = _authors_region(region, floor, (role == "source") & (words[rows] > 1))
        losses = [loss(grid.flatten(1, 2), region) for grid in maps.by_grid(role).values()]  # each r
        term = sum(losses) / len(losses)  # r
        terms.append(term / words[rows].to(term) if refocusing.averages_words else term)
    return torch.cat(terms)


def _authors_region(
    region: Float[Tensor, "r 1 h w"], floor: float, composed_source: Bool[Tensor, " r"]
) -> Float[Tensor, "r 1 h w"]:
    """The region under a mask with a floor: in a composed prompt the source's is what the reference's lifted mask
    leaves."""
    left = composed_source.to(region.device).view(-1, 1, 1, 1)
    return torch.where(left, 1 - lift_mask(1 - region, floor), lift_mask(region, floor))


def refocusing_loss(refocusing: Refocusing) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one placeholder's maps (b heads h w) and its mask (b 1 H W), one value per sample."""
    loss = REFOCUSING_FORMS[refocusing.form]
    return partial(loss, scale=refocusing.scale) if refocusing.takes_scale else loss


def capture_placeholders(
    backend: Backend, ids: Int[Tensor, "b n"], refocusing: Refocusing
) -> AbstractContextManager[AttentionMaps | None]:
    """Capture the maps that refocusing reads: of the placeholders among the token ids, on the backend's grid.

    Yields None where refocusing is off, or no prompt holds a placeholder.
    """
    if refocusing.weight == 0:
        return nullcontext()
    positions = placeholder_positions(backend.pipeline.tokenizer, ids)
    if not positions:
        return nullcontext()
    # as in the authors' code: one grid of the down and up blocks, not the middle
    size = backend.attention_size
    return capture_attention(
        backend.pipeline.unet, positions, layers=r"^(down|up)_blocks", min_size=size, max_size=size
    )
