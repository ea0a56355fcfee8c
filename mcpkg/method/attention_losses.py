"""Attention losses for learned placeholders, other than Attention Refocusing as in Eq. 8, to compare with it.

Each is a value of `Refocusing.form` and takes the weight `Refocusing.weight`; the weights that their authors chose are
in the docstrings, and are not comparable with one another. All heads of all layers of one grid come in together. To add
one, write a function of maps and mask here and register it under a name: it then appears in the checks of the
configuration, in the command line's help, in the widget and in the tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.method.config import REFOCUSING_FORMS
from mcpkg.method.masks import to_attention_mask
from mcpkg.method.refocusing import SMALL, scale_map

AUTHORS_SIZE = 64
"""Side of the maps that `authors_refocusing` compares, in cells: that of Stable Diffusion's latents."""


@REFOCUSING_FORMS.register("authors")
def authors_refocusing(maps: Float[Tensor, "b heads h w"], mask: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Squared distance of the mean over heads from the mask, over all cells; inside the mask nothing is asked.

    MagiCapture's released code (Hyung et al., AAAI 2024), where it differs from Eq. 8: every head's map is enlarged to
    64x64 (bilinear) and scaled by "detached_minmax"; inside the mask its values are replaced by 1; the heads are then
    averaged *before* the difference is squared, and the mean is over *all* cells, so that a token with a small region
    weighs more. Two placeholders of one prompt are averaged (`Refocusing.averages_words`). Their weight is 2.5.

    Args:
        maps: A_k of one grid's layers and heads.
        mask: where the token may look, at any resolution; as theirs, sampled at the nearest pixel. Inside is where it
            is at least 0.5.

    Returns:
        One loss per sample in [0, 1].

    Note:
        Their masks have a floor of 0.01 / 1.01, which is then what is asked outside: `Method.mask_floor`.
        Each of their placeholders has one token; the attention to several is summed here, as in every form.
    """
    size = (AUTHORS_SIZE, AUTHORS_SIZE)
    wanted = F.interpolate(mask.to(maps), size)  # b 1 64 64
    scaled = scale_map(F.interpolate(maps, size, mode="bilinear"), "detached_minmax")  # b heads 64 64
    together = torch.where(wanted < 0.5, scaled, 1.0).mean(dim=1, keepdim=True)  # b 1 64 64
    return (together - wanted).square().mean(dim=(1, 2, 3))  # b


@REFOCUSING_FORMS.register("break_a_scene")
def break_a_scene(maps: Float[Tensor, "b heads h w"], mask: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Squared distance of the token's map from its whole mask, inside as well as outside.

    Break-A-Scene (Avrahami et al., SIGGRAPH Asia 2023, arXiv 2305.16311), its cross-attention loss: the map is
    averaged over heads and layers of the 16x16 grid, then divided by its maximum. Their weight is 0.01.

    Args:
        maps: A_k of one grid's layers and heads.
        mask: where the token should be attended to, at any resolution; as theirs, sampled at the nearest pixel.

    Returns:
        One loss per sample in [0, 1].
    """
    wanted = F.interpolate(mask.to(maps), maps.shape[-2:])  # b 1 h w
    together = scale_map(maps.mean(dim=1, keepdim=True), "max")  # b 1 h w
    return (together - wanted).square().mean(dim=(1, 2, 3))  # b


@REFOCUSING_FORMS.register("mix_of_show")
def mix_of_show(maps: Float[Tensor, "b heads h w"], mask: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Mean of the token's map outside its mask; nothing is asked inside.

    Mix-of-Show (Gu et al., NeurIPS 2023, arXiv 2305.18292), the attention regularisation of the authors' code: the
    map is averaged over heads and layers of each grid, then divided by its maximum. Their weight is 0.01.

    Args:
        maps: A_k of one grid's layers and heads.
        mask: where the token may look, at any resolution; the nearest pixel of each cell is taken, as theirs is.

    Returns:
        One loss per sample in [0, 1]; 0 where the mask covers everything.

    Note:
        There a concept has two tokens. This is the loss of its first, and of both where a real person is learned
        (`reg_full_identity: false`); for other concepts the second token has the loss `break_a_scene`. The maximum
        is of each sample's map; their code takes that of the whole batch.
    """
    outside = 1 - F.interpolate(mask.to(maps), maps.shape[-2:])  # b 1 h w
    together = scale_map(maps.mean(dim=1, keepdim=True), "max")  # b 1 h w
    return (together * outside).sum(dim=(1, 2, 3)) / outside.sum(dim=(1, 2, 3)).clamp_min(SMALL)


@REFOCUSING_FORMS.register("fastcomposer")
def fastcomposer(maps: Float[Tensor, "b heads h w"], mask: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Mean attention outside the mask minus mean attention inside it: the balanced L1 loss.

    FastComposer (Xiao et al., IJCV 2024, arXiv 2305.10431), its localisation loss: of every head by itself, without
    scaling. Their weight is 0.001.

    Args:
        maps: A_k of one grid's layers and heads.
        mask: where the token should be attended to, at any resolution; averaged over each cell.

    Returns:
        One loss per sample in [-1, 1]: 0 for attention that is the same everywhere, negative where the
        token is attended to more inside than outside.
    """
    inside = F.adaptive_avg_pool2d(mask.to(maps), maps.shape[-2:])  # b 1 h w
    outside = 1 - inside
    mean_inside = (maps * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp_min(SMALL)  # b heads
    mean_outside = (maps * outside).sum(dim=(2, 3)) / outside.sum(dim=(2, 3)).clamp_min(SMALL)  # b heads
    return (mean_outside - mean_inside).mean(dim=1)  # b


@REFOCUSING_FORMS.register("fraction")
def attention_fraction(
    maps: Float[Tensor, "b heads h w"],
    mask: Float[Tensor, "b 1 H W"],
) -> Float[Tensor, " b"]:
    """(1 - inside / total)^2, the loss on the fraction of attention inside the mask itself.

    Args:
        maps: A_k of one layer, every head by itself.
        mask: where the placeholder may be attended to, at any resolution, pooled as in `attention_refocusing`.

    Returns:
        One loss per sample in [0, 1], a mean over heads.

    Note:
        Not in the paper (Eq. 8 is). A fraction does not change with the map's strength, so the placeholder
        cannot meet this loss by vanishing; it can by being attended to in a few cells of the mask only.
    """
    inside = to_attention_mask(mask.to(maps), maps.shape[-2:])  # b 1 h w
    fraction = (maps * inside).sum(dim=(2, 3)) / maps.sum(dim=(2, 3)).clamp_min(SMALL)  # b heads
    return (1 - fraction).square().mean(dim=1)  # b
