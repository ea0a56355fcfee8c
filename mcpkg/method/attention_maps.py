"""Attention maps: how they are computed (Eq. 2), and the store that a capture fills."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def attention_columns(
    query: Float[Tensor, "b heads cells d"],
    key: Float[Tensor, "b heads n d"],
    positions: Bool[Tensor, "b tokens n"],
    bias: Float[Tensor, "b 1 #cells n"] | None = None,
) -> Float[Tensor, "b tokens heads cells"]:
    """Columns of A = softmax(QK^T / sqrt(d)) (Eq. 2), summed over each token's positions, in float32.

    Args:
        query, key: one per head, of any float type.
        positions: where each wanted token stands; a row without it gives 0.
        bias: added to the scores before the softmax, as attention masks are.

    Returns:
        Each cell's attention to each wanted token, in [0, 1].
    """
    # Autocast would take the products back to half precision.
    with torch.autocast(query.device.type, enabled=False):
        # The keys are the smaller factor: fewer numbers to scale than there are scores.
        scores = query.float() @ (key.float() / key.shape[-1] ** 0.5).mT  # b heads cells n
        if bias is not None:
            scores = scores + bias.float()
        columns = scores.softmax(dim=-1).flatten(1, 2) @ positions.float().mT  # b heads*cells tokens
        return columns.mT.unflatten(-1, scores.shape[1:3])


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
KEEP = ("last", "mean", "max", "all")


class MapStore:
    """Attention maps by token name, filled each time the UNet has run.

    Attributes:
        maps: name -> list of (layer name, Float[r heads h w]); r counts the rows that hold the token, in order.
            Attention to several positions of one name is summed. With gradient under keep="last".
        rows: name -> Bool[b], which rows of the given token mask hold the token.
        heads: indices of the heads kept, None for all.
        history: under keep="all", one (timesteps, maps) pair per forward pass; else empty.
        forwards: how many forward passes were seen.
    """

    def __init__(self, tokens: Mapping[str, Bool[Tensor, "b n"]], heads: Sequence[int] | None, keep: str):
        self.maps: NamedMaps = {}
        self.rows = {name: positions.any(dim=1).cpu() for name, positions in tokens.items()}
        self.heads = None if heads is None else list(heads)
        self._timestep: Tensor | float = 0
        self.history: list[tuple[tuple[int, ...], NamedMaps]] = []
        self.forwards = 0
        self.keep = keep

    def mean(self, name: str, size: int | None = None) -> Float[Tensor, "r h w"]:
        """Mean over heads and over the layers of one grid.

        Args:
            size: the grid's longer side; the finest captured one if None.

        Raises:
            ValueError: if no layer has that grid.
        """
        return self._of_grid(name, size).mean(dim=1)

    def max(self, name: str, size: int | None = None) -> Float[Tensor, "r h w"]:
        """As `mean`, but the maximum: a place counts if any head of any layer looks there."""
        return self._of_grid(name, size).amax(dim=1)

    def _of_grid(self, name: str, size: int | None) -> Float[Tensor, "r heads h w"]:
        """The heads of all layers of one grid."""
        grids = {max(grid): maps for grid, maps in by_grid(self.maps[name]).items()}
        size = max(grids) if size is None else size
        if size not in grids:
            raise ValueError(f"size: no captured layer has a grid of {size}. Captured: {sorted(grids)}.")
        return grids[size]

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Of the latest forward pass, one per row of the given token mask."""
        # Read when asked for: on a GPU every look waits until all of the work before it is done.
        b = len(next(iter(self.rows.values())))
        of_rows = torch.as_tensor(self._timestep).flatten().tolist()
        return tuple(int(t) for t in (of_rows * b)[-b:])  # one for all rows, one each, or twice as many: guidance

    def add(self, maps: NamedMaps, timestep: Tensor | float) -> None:
        """Take in one forward pass."""
        self.forwards += 1
        self._timestep = timestep
        if self.keep == "last":
            self.maps = maps
            return
        maps = {name: [(layer, m.detach().cpu()) for layer, m in pairs] for name, pairs in maps.items()}
        if self.keep == "all":
            self.history.append((self.timesteps, maps))
        if self.forwards == 1:
            self.maps = {name: [(layer, m.clone()) for layer, m in pairs] for name, pairs in maps.items()}
            return
        for name, pairs in maps.items():
            for (layer, held), (_, new) in zip(self.maps[name], pairs, strict=True):
                if held.shape != new.shape:
                    raise ValueError(
                        f"{layer}: a map of {tuple(new.shape[-2:])} cells after one of {tuple(held.shape[-2:])}. Run "
                        f"images of one size in one block, or give keep='last'."
                    )
                if self.keep == "max":
                    torch.maximum(held, new, out=held)
                else:
                    held += (new - held) / self.forwards


def by_grid(layer_maps: Iterable[tuple[str, Tensor]]) -> dict[tuple[int, int], Tensor]:
    """Layers of one grid put together, one after the other along the heads.

    Args:
        layer_maps: (layer name, Float[r heads h w]) pairs, as `MapStore.maps[name]` holds them.

    Returns:
        (height, width) of each grid -> Float[r all_heads h w].
    """
    grids: dict[tuple[int, int], list[Tensor]] = {}
    for _, maps in layer_maps:
        grids.setdefault(tuple(maps.shape[-2:]), []).append(maps)
    return {grid: torch.cat(maps, dim=1) for grid, maps in grids.items()}
