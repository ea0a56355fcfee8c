"""Attention Refocusing (Eq. 8): a word may not look outside its region. Other published forms: `attention_losses`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.method.attention_capture import MapStore, capture_attention
from mcpkg.method.attention_maps import by_grid
from mcpkg.method.batch import ROLES, Concept
from mcpkg.method.config import LossWeights, Method
from mcpkg.method.interfaces import Backend
from mcpkg.method.prompts import vector_tokens

SMALL = 1e-8
FORMS: dict[str, Callable[..., Tensor]] = {}
"""Name of a refocusing form -> the loss of one token's maps; filled by `refocusing_form`."""


def refocusing_form(name: str) -> Callable[[Callable], Callable]:
    """Register a loss of (maps, mask) under a name."""

    def register(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        FORMS[name] = loss
        return loss

    return register


def scale_map(maps: Float[Tensor, "b heads h w"], scale: str = "max") -> Float[Tensor, "b heads h w"]:
    """S of Eq. 8: brings every map to [0, 1] on its own.

    Args:
        maps: attention, >= 0.
        scale: "max" divides by the maximum, with gradient; "minmax" takes the minimum off and divides
            by the range, both detached; "none" leaves the attention as it is.

    Raises:
        ValueError: for any other scale.

    Note:
        The authors' code is "minmax". There the loss falls when the whole map shrinks, so that it can be
        met by extinguishing the token. Under "max" a map and its multiples have the same loss, whose
        gradient therefore moves attention instead of removing it: our default.
    """
    match scale:
        case "max":
            return maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(SMALL)
        case "minmax":
            low = maps.amin(dim=(2, 3), keepdim=True).detach()
            high = maps.amax(dim=(2, 3), keepdim=True).detach()
            return (maps - low) / (high - low).clamp_min(SMALL)
        case "none":
            return maps
    raise ValueError(f"scale: {scale!r} unknown. Choose 'max', 'minmax' or 'none'.")


@refocusing_form("mask")
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
    inside = F.adaptive_max_pool2d(mask.to(maps), maps.shape[-2:])  # b 1 h w
    outside = 1 - inside  # b 1 h w
    error = ((scale_map(maps, scale) - inside) * outside).square()  # b heads h w
    area = outside.sum(dim=(1, 2, 3)).clamp_min(1) * maps.shape[1]  # b
    return error.sum(dim=(1, 2, 3)) / area  # b


def mean_over_grids(
    loss: Callable[..., Tensor],
    layer_maps: Iterable[tuple[str, Tensor]],
    mask: Float[Tensor, "b 1 H W"],
    **options,
) -> Float[Tensor, " b"]:
    """An attention loss averaged over grids; all layers of a grid count as heads of one.

    Args:
        loss: of maps and mask, such as `attention_refocusing`.
        layer_maps: (layer name, map) pairs, as `MapStore.maps[name]` holds them.
        mask: where the token may look.
        options: passed on to the loss.
    """
    losses = [loss(maps, mask, **options) for maps in by_grid(layer_maps).values()]
    return sum(losses) / len(losses)


def capture_words(backend: Backend, ids: Int[Tensor, "b n"], method: Method, weights: LossWeights):
    """Capture the placeholders' maps where refocusing needs them; a context that yields None elsewhere."""
    positions = word_positions(backend, ids, method.vectors) if weights.refocusing > 0 else {}
    if not positions:
        return nullcontext()
    unet, size = backend.pipeline.unet, backend.attention_size
    # as in the authors' code: one grid of the down and up blocks, not the middle
    return capture_attention(unet, positions, layers=r"^(down|up)_blocks", min_size=size, max_size=size)


def word_positions(backend: Backend, ids: Int[Tensor, "b n"], vectors: int = 1) -> dict[str, Bool[Tensor, "b n"]]:
    """Role -> where its word stands in each tokenized prompt, for the roles whose word is in any.

    Raises:
        ValueError: a word was never added to the tokenizer.
    """
    added, positions = backend.pipeline.tokenizer.get_added_vocab(), {}
    for role, word in ROLES.items():
        tokens = vector_tokens(replace(word, vectors=vectors))
        if not added.keys() >= set(tokens):
            raise ValueError(f"{word.token}: not a word of this model with {vectors} vectors. Call add_words first.")
        positions[role] = torch.isin(ids, torch.tensor([added[token] for token in tokens]))
    return {role: at for role, at in positions.items() if at.any()}


def word_regions(batch: Concept) -> dict[str, Float[Tensor, "b 1 h w"]]:
    """Role -> where its word may look: [V1] at the face, [V2] at the rest, also where a prompt holds both."""
    return {"source": batch.face, "reference": 1 - batch.face}


def refocusing_terms(maps: MapStore, batch: Concept, method: Method, weights: LossWeights) -> Float[Tensor, " r"]:
    """Attention Refocusing (Eq. 8) or the form that the weights name, one value per word and prompt that holds it."""
    regions, values = word_regions(batch), []
    # S is a choice of Eq. 8 only: the other forms scale as published
    options = {"scale": method.refocusing_scale} if weights.refocusing_form == "mask" else {}
    for role, layer_maps in maps.maps.items():
        region = regions[role][maps.rows[role].to(batch.face.device)]
        values.append(mean_over_grids(FORMS[weights.refocusing_form], layer_maps, region, **options))
    return torch.cat(values)
