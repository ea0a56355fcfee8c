"""A drawing's attention, small enough to work out by hand: two steps of two heads on 2 x 2 cells."""

import torch

from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.metrics.attention_trace import AttentionTrace

LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # the face is the left column
FINE = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]], [[0.0, 0.5], [0.0, 0.0]]],
                     [[[0.2, 0.0], [0.2, 0.0]], [[0.2, 0.1], [0.2, 0.1]]]])  # fmt: skip
COARSE = torch.full((2, 2, 1, 1), 0.3)
TOKENS = {"source": "<v1>", "reference": "<v2>"}


def hand_made_trace(region=LEFT, fine=FINE, coarse=COARSE, roles=("source",)):
    """Timesteps 900 and 100, layers "down" and "mid"; every role has the same maps.

    Args:
        region: of the source; that of the reference is the rest.
        fine, coarse: steps heads h w.
    """
    maps = AttentionMaps({role: torch.ones(1, 1, dtype=torch.bool) for role in roles}, keep="all")
    for timestep, down, mid in zip((900, 100), fine, coarse, strict=True):
        maps.add({role: {"down": down[None], "mid": mid[None]} for role in roles}, timestep)
    regions = {"source": region, "reference": 1 - region}
    tokens = {role: TOKENS[role] for role in roles}
    return AttentionTrace(torch.zeros(3, 2, 2), maps, {role: regions[role] for role in roles}, tokens, size=2)
