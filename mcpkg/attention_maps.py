"""Attention maps: how they are computed (Eq. 2), and the store that a capture fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def attention_columns(
    query: Float[Tensor, "b heads cells d"],
    key: Float[Tensor, "b heads n d"],
    positions: Bool[Tensor, "b n"],
    bias: Float[Tensor, "b 1 #cells n"] | None = None,
) -> Float[Tensor, "b heads cells"]:
    """Columns of A = softmax(QK^T / sqrt(d)) (Eq. 2), summed over the wanted positions, in float32.

    Args:
        query, key: one per head, of any float type.
        positions: the wanted tokens, at least one per row.
        bias: added to the scores before the softmax, as attention masks are.

    Returns:
        Each cell's attention to the wanted tokens together, in [0, 1].
    """
    # Autocast would take the product back to half precision.
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().mT / query.shape[-1] ** 0.5                 # b heads cells n
        if bias is not None:
            scores = scores + bias.float()
        wanted = scores.masked_fill(~positions[:, None, None], -torch.inf)
        return (wanted.logsumexp(dim=-1) - scores.logsumexp(dim=-1)).exp()               # b heads cells


def grid_size(cells: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer's grid, from its number of cells and the latents' size.

    A UNet's convolutions of stride 2 halve a side rounding up.
    """
    h, w = height, width
    while h * w > cells:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != cells:
        raise RuntimeError(f"attention over {cells} cells fits no grid of {height}x{width} latents.")
    return h, w


NamedMaps = dict[str, list[tuple[str, Tensor]]]


class MapStore:
    """Attention maps by token name, filled each time the UNet has run.

    Attributes:
        maps: name -> list of (layer name, Float[r heads h w]); r counts the rows that hold the token, in order.
            Attention to several positions of one name is summed. With gradient under keep="last".
        rows: name -> Bool[b], which rows of the given token mask hold the token.
        heads: indices of the heads kept, None for all.
        history: under keep="all", one (timestep, maps) pair per forward pass; else empty.
        forwards: how many forward passes were seen.
    """

    def __init__(self, tokens: Mapping[str, Bool[Tensor, "b n"]], heads: Sequence[int] | None, keep: str):
        self.maps: NamedMaps = {}
        self.rows = {name: positions.any(dim=1).cpu() for name, positions in tokens.items()}
        self.heads = None if heads is None else list(heads)
        self.history: list[tuple[int, NamedMaps]] = []
        self.forwards = 0
        self._keep = keep

    def mean(self, name: str, size: int | None = None) -> Float[Tensor, "r h w"]:
        """Mean over heads and over the layers of one grid.

        Args:
            size: the grid's longer side; the finest captured one if None.

        Raises:
            ValueError: if no layer has that grid.
        """
        sizes = {max(maps.shape[-2:]) for _, maps in self.maps[name]}
        size = max(sizes) if size is None else size
        if size not in sizes:
            raise ValueError(f"size: no captured layer has a grid of {size}. Captured: {sorted(sizes)}.")
        same = [maps.mean(dim=1) for _, maps in self.maps[name] if max(maps.shape[-2:]) == size]
        return torch.stack(same).mean(dim=0)                                             # r h w

    def add(self, maps: NamedMaps, timestep: Tensor | float) -> None:
        """Take in one forward pass."""
        self.forwards += 1
        if self._keep == "last":
            self.maps = maps
            return
        maps = {name: [(layer, m.detach().cpu()) for layer, m in pairs] for name, pairs in maps.items()}
        if self._keep == "all":
            self.history.append((int(torch.as_tensor(timestep).flatten()[0]), maps))
        if self.forwards == 1:
            self.maps = {name: [(layer, m.clone()) for layer, m in pairs] for name, pairs in maps.items()}
            return
        for name, pairs in maps.items():
            for (_, mean), (_, new) in zip(self.maps[name], pairs, strict=True):
                mean += (new - mean) / self.forwards
