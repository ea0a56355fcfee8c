"""Scores with a fixed meaning: PSNR, IoU, verification rate, Fréchet distance."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def psnr(images: Float[Tensor, "b c h w"], targets: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Compute the peak signal-to-noise ratio in dB of images in [0, 1]; infinite where they are equal."""
    error = (images.float() - targets.float()).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def iou(masks: Bool[Tensor, "b *size"], targets: Bool[Tensor, "b *size"]) -> Float[Tensor, " b"]:
    """Compute intersection over union per sample; 1 where both masks are empty."""
    both = (masks & targets).flatten(1).sum(dim=1)
    either = (masks | targets).flatten(1).sum(dim=1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def verification_tar(embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"], far: float = 1e-3) -> float:
    """Compute the true acceptance rate (TAR) at a false acceptance rate (FAR), over all pairs.

    Args:
        embeddings: unit vectors, at least two of one person and two people.
        labels: number of the person of each.
        far: fraction of pairs of different people that are accepted as the same person.

    Returns:
        Fraction of pairs of the same person whose cosine is above the threshold given by `far`.

    Raises:
        ValueError: there is no pair of the same person, or none of different people.
    """
    first, second = torch.triu_indices(len(labels), len(labels), offset=1)
    cosines = (embeddings @ embeddings.T)[first, second]
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        raise ValueError("verification needs pairs of the same person and of different people; got only one kind.")
    impostors = cosines[~same]
    accepted = int(far * len(impostors))
    threshold = impostors.topk(accepted + 1).values[-1]  # without ties, exactly `accepted` are above it
    return (cosines[same] > threshold).float().mean().item()


def frechet_distance(features: Float[Tensor, "n d"], targets: Float[Tensor, "m d"]) -> float:
    """Compute the Fréchet distance between two Gaussians fitted to two sets of features.

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2)   (Heusel et al. 2017)

    Returns:
        The distance in squared feature units, >= 0.

    Note:
        It grows as sets shrink: compare only distances between sets of the same size.
    """
    features, targets = features.double(), targets.double()
    shift = (features.mean(dim=0) - targets.mean(dim=0)).square().sum()
    root = _square_root(features.T.cov(correction=0))
    other = targets.T.cov(correction=0)
    overlap = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return (shift + root.square().sum() + other.trace() - 2 * overlap).clamp(min=0).item()


def _square_root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return the symmetric square root; rounding can leave eigenvalues just below 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
