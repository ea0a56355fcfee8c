"""Does a learned token look where it should? Shares of attention, in and outside a region."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.attention_maps import MapStore


def fit_region(region: Float[Tensor, "b 1 H W"], maps: Float[Tensor, "b heads h w"]) -> Float[Tensor, "b 1 h w"]:
    """Each map cell's share of area that lies in the region."""
    return F.adaptive_avg_pool2d(region.to(maps), maps.shape[-2:])


def leakage(maps: Float[Tensor, "b heads h w"], region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b heads"]:
    """Share of a token's attention that falls outside its region.

    Args:
        maps: attention of one token, >= 0.
        region: 1 where the token should look, at any resolution.

    Returns:
        In [0, 1] per sample and head; NaN for a map without any attention. Compare with `area_outside`, the
        leakage of a token that looks everywhere alike, and read `attention_mass` beside it.
    """
    outside = (maps * (1 - fit_region(region, maps))).sum(dim=(2, 3))      # b heads
    return outside / maps.sum(dim=(2, 3))                                  # b heads


def area_outside(region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Share of the image outside the region: the leakage of attention that is the same everywhere."""
    return 1 - region.mean(dim=(1, 2, 3))


def attention_mass(maps: Float[Tensor, "b heads h w"], region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b heads"]:
    """Mean attention inside the region: about 0 tells that the token was extinguished, not refocused.

    Returns:
        In [0, 1] per sample and head; NaN for an empty region.
    """
    inside = fit_region(region, maps)                                      # b 1 h w
    return (maps * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))        # b heads


class LeakageRow(NamedTuple):
    """One sample's leakage for one token in one layer and head at one timestep."""

    token: str
    sample: int
    layer: str
    size: int
    head: int
    timestep: int | None
    """None for a mean over timesteps."""
    leakage: float
    """Share of attention outside the token's region."""
    area_outside: float
    """The leakage of attention that is the same everywhere."""
    mass: float
    """Mean attention inside the region."""


def leakage_rows(store: MapStore, regions: Mapping[str, Float[Tensor, "b 1 H W"]]) -> list[LeakageRow]:
    """Every captured map as a row.

    Args:
        store: from `capture_attention`; its history is read if it kept one (keep="all"), else its maps.
        regions: per token name, where it should look, one region per row of the tokens given to the capture.

    Raises:
        ValueError: if a captured token has no region.
    """
    missing = set(store.maps) - set(regions)
    if missing:
        raise ValueError(f"regions: none for {sorted(missing)}. Give each captured token the region it belongs to.")
    rows = []
    for timestep, named in store.history or [(None, store.maps)]:
        for token, layer_maps in named.items():
            samples = store.rows[token].nonzero().flatten().tolist()
            region = regions[token][samples]
            outside = area_outside(region).tolist()
            for layer, maps in layer_maps:
                maps = maps.detach().to(region)
                share, mass = leakage(maps, region).tolist(), attention_mass(maps, region).tolist()
                size = max(maps.shape[-2:])
                rows += [
                    LeakageRow(token, sample, layer, size, maps_head, timestep, share[i][j], outside[i], mass[i][j])
                    for i, sample in enumerate(samples)
                    for j, maps_head in enumerate(store.heads or range(maps.shape[1]))
                ]
    return rows


def mean_leakage(rows: Iterable[LeakageRow], by: Sequence[str] = ("token",)) -> list[dict]:
    """Rows averaged over everything that `by` does not name.

    Args:
        rows: from `leakage_rows`.
        by: fields of LeakageRow to keep apart, such as ("token", "timestep").

    Returns:
        One dict per group with the fields in `by`, then leakage, area_outside, mass and n, the rows it stands for.
        Rows with an undefined leakage (an empty map) are left out.
    """
    groups = defaultdict(list)
    for row in rows:
        if not math.isnan(row.leakage):
            groups[tuple(getattr(row, name) for name in by)].append(row)
    return [
        dict(zip(by, key, strict=True))
        | {name: fmean(getattr(row, name) for row in group) for name in ("leakage", "area_outside", "mass")}
        | {"n": len(group)}
        for key, group in groups.items()
    ]
