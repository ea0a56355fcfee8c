"""Leakage: does attention to a placeholder stay in its region? Fractions of attention inside and outside.

How to read the numbers. A placeholder's attention is a map over the image; its region is where it should be attended to
([V1] in the face, [V2] in the rest).

- leakage is the fraction of the map's sum that lies outside the region: 0 all inside, 1 all outside.
- `area_outside` is the fraction of the image that lies outside the region, which is the leakage of attention that is
  the same everywhere. Leakage means nothing without it: 0.6 is good aim at a face that fills a fifth of the image
  (0.8 by area alone), and bad aim at one that fills half of it. Below it attention aims at the region; above it,
  attention avoids it.
- `mass` is the mean attention inside the region. A placeholder that is attended to nowhere can still have a good
  fraction of nothing: where leakage falls and mass falls to about 0 with it, it was extinguished, not refocused.

Attention is a softmax over the prompt's tokens, so `mass` depends on how many tokens the prompt has, while leakage
does not depend on how strong the attention is. Means weigh each map by its attention, so that a head with little
attention to the token does not count as much as one with more: the mean is the fraction of all the attention there was.

Regions are `masks.role_region` of the face mask: in training that of the batch, in generation the parser's of the drawn
image.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.util.files import replace_whole


def fit_region(region: Float[Tensor, "b 1 H W"], maps: Float[Tensor, "b heads h w"]) -> Float[Tensor, "b 1 h w"]:
    """Each map cell's fraction of area that lies in the region."""
    return F.adaptive_avg_pool2d(region.to(maps), maps.shape[-2:])


def attention_leakage(maps: Float[Tensor, "b heads h w"], region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b heads"]:
    """Fraction of a token's attention that falls outside its region.

    Args:
        maps: attention of one token, >= 0.
        region: 1 where the token should be attended to, at any resolution.

    Returns:
        In [0, 1] per sample and head; NaN for a map without any attention, and for an empty region, such as the face
        in an image that shows none. Compare with `area_outside`, the leakage of attention that is the same everywhere,
        and read `attention_mass` beside it.
    """
    inside = fit_region(region, maps)  # b 1 h w
    outside = (maps * (1 - inside)).sum(dim=(2, 3)) / maps.sum(dim=(2, 3))  # b heads
    return outside.masked_fill(inside.sum(dim=(2, 3)) == 0, math.nan)  # b heads


def area_outside(region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, " b"]:
    """Fraction of the image outside the region: the leakage of attention that is the same everywhere."""
    return 1 - region.mean(dim=(1, 2, 3))


def attention_mass(maps: Float[Tensor, "b heads h w"], region: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b heads"]:
    """Mean attention inside the region: about 0 tells that the token was extinguished, not refocused.

    Returns:
        In [0, 1] per sample and head; NaN for an empty region.
    """
    inside = fit_region(region, maps)  # b 1 h w
    return (maps * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))  # b heads


class LeakageRow(NamedTuple):
    """One sample's leakage for one token in one layer and head at one timestep."""

    token: str
    sample: int
    layer: str
    size: int
    head: int
    timestep: int | None
    """None where several were reduced to one map."""
    leakage: float
    """Fraction of attention outside the token's region."""
    area_outside: float
    """The leakage of attention that is the same everywhere."""
    mass: float
    """Mean attention inside the region."""
    attention: float
    """Mean attention over the whole image: the row's weight in a mean."""


def leakage_rows(maps: AttentionMaps, regions: Mapping[str, Float[Tensor, "b 1 H W"]]) -> list[LeakageRow]:
    """Every captured map as a row; `LeakageRow.token` is the name that the capture had for it, such as the role.

    Args:
        maps: from `capture_attention`; every step that it kept.
        regions: for each role, where its placeholder should be attended to, one region per prompt of the capture.

    Raises:
        ValueError: a captured role has no region, or not one per prompt.
    """
    missing = set(maps.maps) - set(regions)
    if missing:
        raise ValueError(f"regions: none for {sorted(missing)}. Give each captured token the region it belongs to.")
    for role, held in maps.rows.items():
        if len(regions[role]) != len(held):
            raise ValueError(f"regions: {len(regions[role])} for {role!r}, whose capture had {len(held)} prompts.")
    rows = []
    for step, timesteps in enumerate(maps.timesteps):
        for role, of_role in maps.maps.items():
            samples = maps.rows[role].nonzero().flatten().tolist()
            region = regions[role][samples]
            outside = area_outside(region).tolist()
            for layer, of_layer in of_role.items():
                of_step = of_layer[:, step].detach().to(region)  # r heads h w
                leaked, mass = attention_leakage(of_step, region).tolist(), attention_mass(of_step, region).tolist()
                attention = of_step.mean(dim=(2, 3)).tolist()
                rows += [
                    LeakageRow(
                        token=role,
                        sample=sample,
                        layer=layer,
                        size=max(of_step.shape[-2:]),
                        head=head,
                        timestep=timesteps and timesteps[sample],
                        leakage=leaked[i][j],
                        area_outside=outside[i],
                        mass=mass[i][j],
                        attention=attention[i][j],
                    )
                    for i, sample in enumerate(samples)
                    for j, head in enumerate(maps.heads or range(of_step.shape[1]))
                ]
    return rows


def mean_leakage(rows: Iterable[LeakageRow], by: Sequence[str] = ("token",)) -> list[dict]:
    """Rows averaged over everything that `by` does not name.

    Args:
        rows: from `leakage_rows`.
        by: fields of LeakageRow to keep apart, such as ("token", "timestep").

    Returns:
        One dict per group with the fields in `by`, then leakage, area_outside, mass and n, the rows it stands for.
        Of one sample, leakage is the fraction of all its attention in the group; samples then count alike. Rows with
        an undefined leakage (an empty map) are left out.
    """
    groups: dict[tuple, dict[int, list[LeakageRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if not math.isnan(row.leakage):
            groups[tuple(getattr(row, name) for name in by)][row.sample].append(row)
    return [
        dict(zip(by, key, strict=True))
        | {
            "leakage": fmean(fmean([r.leakage for r in rows], [r.attention for r in rows]) for rows in samples),
            "area_outside": fmean(rows[0].area_outside for rows in samples),
            "mass": fmean(fmean(r.mass for r in rows) for rows in samples),
            "n": sum(map(len, samples)),
        }
        for key, samples in ((key, list(of_key.values())) for key, of_key in groups.items())
    ]


def leakage_by_token(rows: Iterable[LeakageRow]) -> dict[str, float]:
    """One number per token; read it beside its area and its mass, which `mean_leakage` gives with it."""
    return {group["token"]: group["leakage"] for group in mean_leakage(rows)}


def write_leakage_csv(rows: Iterable[LeakageRow], path: str | Path) -> None:
    """The full table, one line per token, sample, layer, head and timestep; the file appears whole or not at all.

    What is not defined (None, NaN) is an empty field.
    """
    with replace_whole(path) as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(LeakageRow._fields)
        for row in rows:
            table.writerow("" if value != value else value for value in row)  # NaN differs from itself
