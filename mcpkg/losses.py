"""The paper's losses: pure functions, one value per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.attention_maps import by_grid

SMALL = 1e-8


def masked_reconstruction(
    noise_pred: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, " b"]:
    """Squared noise error per masked latent value (Eqs. 4-6); a mask of ones gives Eq. 1, and prior preservation.

    Args:
        noise_pred, noise: in latent units, standard deviation about 1.
        mask: 1 on the concept, 0 elsewhere; never empty.

    Returns:
        One loss per sample, >= 0.

    Note:
        Divided by the mask's own area, so that a small face weighs as much as a large one.
    """
    error = (noise_pred - noise).square() * mask            # b c h w
    area = mask.sum(dim=(1, 2, 3)) * noise.shape[1]         # b
    return error.sum(dim=(1, 2, 3)) / area                  # b


def identity_loss(embedding: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """One minus the cosine of the generated face and the source's face (Eq. 7).

    Args:
        embedding: of the face in the predicted image; need not have unit length.
        target: of the source, in the same embedder's space.

    Returns:
        One loss per sample: 0 same direction, 1 unrelated, 2 opposite.
    """
    return 1 - F.cosine_similarity(embedding, target, dim=1)


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
    inside = F.adaptive_max_pool2d(mask.to(maps), maps.shape[-2:])                       # b 1 h w
    outside = 1 - inside                                                                 # b 1 h w
    error = ((scale_map(maps, scale) - inside) * outside).square()                       # b heads h w
    area = outside.sum(dim=(1, 2, 3)).clamp_min(1) * maps.shape[1]                       # b
    return error.sum(dim=(1, 2, 3)) / area                                               # b


def attention_share(
    maps: Float[Tensor, "b heads h w"],
    mask: Float[Tensor, "b 1 H W"],
) -> Float[Tensor, " b"]:
    """(1 - inside / total)^2, the loss on the share of attention itself: another form of refocusing.

    Args:
        maps: A_k of one layer, every head by itself.
        mask: where the token may look, at any resolution, pooled as in `attention_refocusing`.

    Returns:
        One loss per sample in [0, 1], a mean over heads.

    Note:
        Not in the paper (Eq. 8 is). A share does not change with the map's strength, so that the token
        can not meet this loss by vanishing; it can by looking at a few pixels of the mask only.
    """
    inside = F.adaptive_max_pool2d(mask.to(maps), maps.shape[-2:])                       # b 1 h w
    share = (maps * inside).sum(dim=(2, 3)) / maps.sum(dim=(2, 3)).clamp_min(SMALL)      # b heads
    return (1 - share).square().mean(dim=1)                                              # b


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
