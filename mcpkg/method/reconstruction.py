"""Masked reconstruction (Eqs. 4-6); with a mask of ones, the plain denoising loss (Eq. 1).

Which images and prompts it gets in each task, pseudo-labels of the composed task (Eq. 6) among them, is decided by
`training.dataset`; which mask, by `masks.role_region`.
"""

from jaxtyping import Float
from torch import Tensor

from mcpkg.method.masks import lift_mask


def masked_reconstruction(
    noise_pred: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"],
    floor: float = 0.0,
) -> Float[Tensor, " b"]:
    """Squared noise error per masked latent value (Eqs. 4-6); a mask of ones gives Eq. 1 and prior preservation.

    Args:
        noise_pred, noise: in latent units, standard deviation about 1.
        mask: 1 on the concept, 0 elsewhere; never empty.
        floor: `Method.mask_floor`; above 0, prediction and target are both multiplied by the lifted mask before their
            difference is squared, as in the authors' code.

    Returns:
        One loss per sample, >= 0.

    Note:
        Divided by the mask's own area, so that a small face weighs as much as a large one.
    """
    if floor > 0:
        mask = lift_mask(mask, floor)
    error = (noise_pred - noise).square() * (mask.square() if floor > 0 else mask)  # b c h w
    area = mask.sum(dim=(1, 2, 3)) * noise.shape[1]  # b
    return error.sum(dim=(1, 2, 3)) / area  # b
