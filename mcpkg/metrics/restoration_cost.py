"""How much identity similarity restoration costs; the paper reports a fall of CSIM from 0.566 to 0.508."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.data.portraits import Portraits
from mcpkg.method.interfaces import FaceEmbedder, FaceParser
from mcpkg.util.errors import notify
from mcpkg.util.statistics import NAN, Interval, bootstrap_interval

THRESHOLD = 0.06
"""A loss of mean cosine as large as the paper's. It suits embedders for which strangers have a cosine of about 0."""


@dataclass(frozen=True)
class IdentityCost:
    """Mean cosine to the source photos (CSIM), before and after restoration."""

    before: Interval
    after: Interval
    lost: Interval
    """`before` minus `after`, per image."""


@torch.no_grad()
def similarities(
    before: Float[Tensor, "n 3 h w"],
    after: Float[Tensor, "n 3 H W"],
    embedder: FaceEmbedder,
    parser: FaceParser,
    source: Portraits,
) -> Float[Tensor, "2 n"]:
    """Mean cosine of each portrait to the source photos, before and after restoration.

    Args:
        before, after: the same portraits; both are compared in the size of `before`, so that the number of pixels
            has no influence.
        parser: finds the faces in `before`; restoration does not move them. Portraits with no face or with several
            are NaN.
    """
    faces = parser.parse(before)
    own = embedder.embed(source.images, source.faces.landmarks)
    small = functional.interpolate(after, before.shape[-2:], mode="area")
    cosines = [(embedder.embed(images, faces.landmarks) @ own.T).mean(dim=1) for images in (before, small)]
    return torch.where(faces.count == 1, torch.stack(cosines), NAN)


def identity_cost(
    before: Float[Tensor, "n 3 h w"],
    after: Float[Tensor, "n 3 H W"],
    embedder: FaceEmbedder,
    parser: FaceParser,
    source: Portraits,
    seed: int = 0,
) -> IdentityCost:
    """Measure how much less the restored portraits resemble the source.

    Args:
        before, after, embedder, parser, source: see `similarities`.
        seed: of the bootstrap.
    """
    return cost_of(similarities(before, after, embedder, parser, source), seed)


def cost_of(cosines: Float[Tensor, "2 n"], seed: int = 0) -> IdentityCost:
    """The cost of what `similarities` measured, with intervals from a bootstrap of that seed."""
    generator = torch.Generator().manual_seed(seed)
    before, after = cosines
    return IdentityCost(*(bootstrap_interval(values, generator) for values in (before, after, before - after)))


def warn_of_cost(cost: IdentityCost, threshold: float = THRESHOLD) -> None:
    """Notify the user in one line if the mean cosine falls by more than `threshold`."""
    lost = cost.lost
    if lost.mean > threshold:
        notify(
            f"restoration lowers the similarity to the source from {cost.before.mean:.3f} to {cost.after.mean:.3f} "
            f"(lost {lost.mean:.3f} [{lost.low:.3f}, {lost.high:.3f}], n = {lost.n}). Try a lower --restore-strength."
        )
