"""Means over images and over pairs of images, with 95 % bootstrap intervals."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 2000
NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean over images, or pairs of subject and style, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Number of values that the mean is over."""


def bootstrap_interval(values: Float[Tensor, " n"], generator: torch.Generator) -> Interval:
    """Mean and 95 % interval by drawing the images again with replacement; NaN values are left out."""
    values = values[values.isfinite()].double().cpu()
    if len(values) == 0:
        return Interval(NAN, NAN, NAN, 0)
    counts = _draw_again(len(values), generator)
    return _interval(values.mean().item(), counts @ values / len(values), len(values))


def bootstrap_diversity(vectors: Float[Tensor, "n d"], generator: torch.Generator) -> Interval:
    """1 - mean cosine of different images, 0 if all are equal; NaN for fewer than two images.

    Args:
        vectors: of unit length, one per image. An image that is drawn twice is not compared with itself.
    """
    n = len(vectors)
    if n < 2:
        return Interval(NAN, NAN, NAN, n)
    distances = 1 - (vectors @ vectors.T).double().cpu()
    return _interval(
        _mean_of_pairs(torch.ones(1, n).double(), distances).item(),
        _mean_of_pairs(_draw_again(n, generator), distances),
        n,
    )


def mean_pairwise_cosine(vectors: Float[Tensor, "n d"]) -> float:
    """Mean cosine of different unit vectors; 1 if there is only one."""
    n = len(vectors)
    if n == 1:
        return 1.0
    return (((vectors @ vectors.T).sum() - n) / (n * (n - 1))).item()


def wilson_interval(successes: int, n: int) -> Interval:
    """A fraction with its 95 % interval (Wilson, 1927), which also holds for few trials and for fractions of 0 and 1.

    Args:
        successes: out of `n` independent trials; without trials, all values are NaN.
    """
    if n == 0:
        return Interval(NAN, NAN, NAN, 0)
    fraction, z = successes / n, 1.959964
    middle = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(fraction, max(0.0, middle - half), min(1.0, middle + half), n)


def _draw_again(n: int, generator: torch.Generator) -> Float[Tensor, "r n"]:
    """Count of each of n images in each of the resamples."""
    draws: Int[Tensor, "r n"] = torch.randint(n, (RESAMPLES, n), generator=generator)
    return torch.zeros(RESAMPLES, n).double().scatter_add_(1, draws, torch.ones(RESAMPLES, n).double())


def _mean_of_pairs(counts: Float[Tensor, "r n"], pairs: Float[Tensor, "n n"]) -> Float[Tensor, " r"]:
    """Mean over pairs of different images, each as often as both were drawn; NaN if only one image was drawn."""
    pairs = pairs - pairs.diag().diag()
    weight = counts.sum(dim=1).square() - counts.square().sum(dim=1)  # r
    return ((counts @ pairs) * counts).sum(dim=1) / weight


def _interval(mean: float, resampled: Float[Tensor, " r"], n: int) -> Interval:
    low, high = resampled.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean, low, high, n)
