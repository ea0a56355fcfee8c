"""Distance of pictures to real ones in statistics that do not depend on their content: the detail at each scale."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

OCTAVES = 3


def image_statistics(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s"]:
    """Compute per octave of detail, from the finest: log of its strength, and log of how unevenly it is spread.

    Detail of an octave is the grey image minus its copy at half the resolution. Blur weakens the fine octaves; noise
    strengthens them and spreads detail evenly, while in a real picture it is at edges; blocks and ringing do both.

    Returns:
        s = 2 * OCTAVES statistics per image.
    """
    grey = images.double().mean(dim=1, keepdim=True)  # b 1 h w
    statistics = []
    for _ in range(OCTAVES):
        half = functional.avg_pool2d(grey, 2)
        detail = grey - functional.interpolate(half, grey.shape[-2:], mode="bilinear")
        strength = detail.square().mean(dim=(1, 2, 3)).sqrt() + 1e-4  # b
        mean_size = detail.abs().mean(dim=(1, 2, 3)) + 1e-4
        statistics += [strength.log(), (strength / mean_size).log()]
        grey = half
    return torch.stack(statistics, dim=1)


def distance_to_real(images: Float[Tensor, "n 3 h w"], real: Float[Tensor, "m 3 h w"]) -> Float[Tensor, " n"]:
    """Compute the distance of each image's statistics to the mean of real images, in their standard deviations.

    The Mahalanobis distance per dimension, as in NIQE (Mittal et al. 2013): about 1 for a real image, whatever it
    shows.

    Args:
        real: of the same size in pixels; a few are enough, dozens are better.

    Returns:
        One distance per image; NaN with fewer than two real ones.

    Note:
        Fréchet and kernel distances compare whole sets in a network's features. For portraits of one person in one
        style they mostly measure that the set shows one person in one style, and the networks available here were
        trained to ignore blur and noise. The covariance is shrunk to its diagonal by s / (m + s), since that of few
        images is not known well enough to be inverted.
    """
    known, found = image_statistics(real), image_statistics(images)  # m s, n s
    count, size = known.shape
    if count < 2:
        return found.new_full((len(found),), float("nan"))
    covariance = known.T.cov()
    diagonal = covariance.diag().clamp(min=1e-4).diag()
    covariance = covariance + size / (count + size) * (diagonal - covariance)
    return mahalanobis(found, known.mean(dim=0), covariance)


def mahalanobis(
    values: Float[Tensor, "n s"], mean: Float[Tensor, " s"], covariance: Float[Tensor, "s s"]
) -> Float[Tensor, " n"]:
    """Compute sqrt((x - mu)^T C^-1 (x - mu) / s): the Mahalanobis distance per dimension, about 1 for a usual x."""
    offset = values - mean  # n s
    return (torch.linalg.solve(covariance, offset.T) * offset.T).mean(dim=0).sqrt()
