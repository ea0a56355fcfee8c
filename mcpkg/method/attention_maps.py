"""Cross-attention maps: how they are computed (Eq. 2), and the class that capture, drawing and trace return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

KEEP = ("last", "mean", "max", "all")
"""What `AttentionMaps` keeps of several forward passes."""


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

    A UNet's convolutions of stride 2 halve a side, rounding up.

    Raises:
        RuntimeError: no halving of the latents has so many cells.
    """
    h, w = height, width
    while h * w > cells:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != cells:
        raise RuntimeError(f"attention over {cells} cells fits no grid of {height}x{width} latents.")
    return h, w


class AttentionMaps:
    """Attention maps, role -> layer -> Float[r steps heads h w], in [0, 1] per cell.

    A role is "source" or "reference", or any other name that was given to the capture. r counts the prompts that hold
    the role's placeholder, in order; attention to several vectors of one placeholder is summed. Grids differ by layer.
    Maps have a gradient under keep="last"; else they are detached and on the CPU.

    Attributes:
        rows: role -> Bool[b], which prompts hold its placeholder.
        heads: indices of the heads that were captured; None for all.
        keep: "last" and the reductions "mean" and "max" have one step; "all" has one per forward pass.
        passes: number of forward passes seen.
    """

    def __init__(
        self, positions: Mapping[str, Bool[Tensor, "b n"]], heads: Sequence[int] | None = None, keep: str = "last"
    ):
        """
        Args:
            positions: role -> where its placeholder stands in each prompt.
        """
        self._steps: list[dict[str, dict[str, Tensor]]] = []
        self.rows = {role: where.any(dim=1).cpu() for role, where in positions.items()}
        self.heads = None if heads is None else list(heads)
        self.keep = keep
        self.passes = 0
        self._timesteps: list[Tensor | float] = []

    @property
    def maps(self) -> dict[str, dict[str, Float[Tensor, "r steps heads h w"]]]:
        """Role -> layer -> maps; empty before the first forward pass."""
        if len(self._steps) > 1:
            first = self._steps[0]
            joined = {
                role: {layer: torch.cat([step[role][layer] for step in self._steps], dim=1) for layer in of_role}
                for role, of_role in first.items()
            }
            self._steps = [joined]  # once, not at every reading
        return self._steps[0] if self._steps else {}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.rows)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(next(iter(self.maps.values())))

    @property
    def timesteps(self) -> tuple[tuple[int, ...] | None, ...]:
        """For each step, the timestep of every prompt; None where several passes were reduced to one map."""
        if self.keep in ("mean", "max") and self.passes > 1:
            return (None,)
        # Read on demand: on a GPU every reading waits until all of the work before it is done.
        b = len(next(iter(self.rows.values())))
        steps = (torch.as_tensor(of_rows).flatten().tolist() for of_rows in self._timesteps)
        # A pass has one timestep for all prompts, one for each, or twice as many under guidance.
        return tuple(tuple(int(t) for t in (step * b)[-b:]) for step in steps)

    def add(self, maps: Mapping[str, Mapping[str, Float[Tensor, "_ heads _ _"]]], timestep: Tensor | float) -> None:
        """Take in one forward pass.

        Args:
            maps: role -> layer -> maps of that pass, without the axis of steps.

        Raises:
            ValueError: the images have another size than those of an earlier pass.
        """
        self.passes += 1
        self._timesteps = [*(self._timesteps if self.keep == "all" else ()), timestep]
        new = {role: {layer: m[:, None] for layer, m in of_role.items()} for role, of_role in maps.items()}
        if self.keep != "last":
            new = {role: {layer: m.detach().cpu() for layer, m in of_role.items()} for role, of_role in new.items()}
        if self.keep == "last" or not self._steps:
            self._steps = [new]
            return
        self._check_sizes(new)
        if self.keep == "all":
            self._steps.append(new)
            return
        (held,) = self._steps
        for role, of_role in held.items():
            for layer, m in of_role.items():
                other = new[role][layer]
                of_role[layer] = torch.maximum(m, other) if self.keep == "max" else m + (other - m) / self.passes

    def _check_sizes(self, new: Mapping[str, Mapping[str, Tensor]]) -> None:
        for role, of_role in self._steps[0].items():
            for layer, held in of_role.items():
                before, now = tuple(held.shape[-2:]), tuple(new[role][layer].shape[-2:])
                if before != now:
                    raise ValueError(
                        f"{layer}: a map of {now} cells after one of {before}. Run images of one size in one block, "
                        f"or give keep='last'."
                    )

    def by_grid(self, role: str) -> dict[tuple[int, int], Float[Tensor, "r steps _ _ _"]]:
        """(height, width) of each grid -> the maps of all its layers, one after the other along the heads."""
        grids: dict[tuple[int, int], list[Tensor]] = {}
        for maps in self.maps[role].values():
            grids.setdefault((maps.shape[-2], maps.shape[-1]), []).append(maps)
        return {grid: torch.cat(maps, dim=2) for grid, maps in grids.items()}

    def select(
        self,
        role: str,
        *,
        size: int | None = None,
        layer: str | None = None,
        head: int | None = None,
        timestep: int | None = None,
    ) -> Float[Tensor, "r steps heads h w"]:
        """The chosen maps of one grid.

        Args:
            size: the grid's longer side; the finest captured one by default.
            layer: one layer, whatever its grid, instead of all layers of one grid.
            head: one head of each layer.
            timestep: the step at which the first prompt has this timestep.

        Raises:
            ValueError: no such role, size, layer, head or timestep; names those that there are.
        """
        chosen, steps = self._chosen(role, layer, size), slice(None)
        heads = min(maps.shape[2] for maps in chosen)
        if head is not None and head not in range(heads):
            raise ValueError(f"head: {head} unknown. Choose from 0 to {heads - 1}.")
        if timestep is not None:
            known = [step and step[0] for step in self.timesteps]
            if timestep not in known:
                raise ValueError(f"timestep: {timestep} unknown. Choose from {known}.")
            steps = slice(known.index(timestep), known.index(timestep) + 1)
        chosen = chosen if head is None else [maps[:, :, [head]] for maps in chosen]
        return torch.cat(chosen, dim=2)[:, steps]

    def _chosen(self, role: str, layer: str | None, size: int | None) -> list[Tensor]:
        """The maps of one layer, or of all layers of one grid."""
        if role not in self.maps:
            raise ValueError(f"role: {role!r} unknown. Choose from {list(self.maps)}.")
        of_role = self.maps[role]
        if layer is not None and layer not in of_role:
            raise ValueError(f"layer: {layer!r} unknown. Choose from {list(of_role)}.")
        sizes = {name: max(maps.shape[-2:]) for name, maps in of_role.items()}
        size = max(sizes.values()) if size is None else size
        if layer is None and size not in sizes.values():
            raise ValueError(f"size: no captured layer has a grid of {size}. Captured: {sorted(set(sizes.values()))}.")
        return [maps for name, maps in of_role.items() if (sizes[name] == size if layer is None else name == layer)]

    def head_count(self, layer: str | None = None, size: int | None = None) -> int:
        """Heads of a layer, or the number that all layers of one grid have."""
        return min(len(maps[0, 0]) for maps in self._chosen(next(iter(self.maps)), layer, size))

    def heatmap(self, role: str, reduce: str = "mean", **chosen: int | str | None) -> Float[Tensor, "r h w"]:
        """Attention to the role's placeholder, reduced over layers, heads and steps.

        Args:
            reduce: "mean", or "max": a place counts if any head of any layer attends there.
            chosen: size, layer, head and timestep, see `select`.

        Raises:
            ValueError: an unknown `reduce`, or see `select`.
        """
        if reduce not in ("mean", "max"):
            raise ValueError(f"reduce: {reduce!r} unknown. Choose 'mean' or 'max'.")
        maps = self.select(role, **chosen)
        return maps.amax(dim=(1, 2)) if reduce == "max" else maps.mean(dim=(1, 2))

    @classmethod
    def of_means(
        cls, maps: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Bool[Tensor, " b"]], passes: int
    ) -> AttentionMaps:
        """Maps that were captured with keep="mean", from their parts; see `maps`, `rows` and `passes`."""
        made = cls({}, keep="mean")
        made.rows, made.passes = dict(rows), passes
        made._steps = [{role: dict(of_role) for role, of_role in maps.items()}]
        return made

    @classmethod
    def concatenated(cls, batches: Sequence[AttentionMaps]) -> AttentionMaps:
        """The maps of several batches of prompts as one; all captured alike."""
        first = batches[0]
        joined = cls({}, first.heads, first.keep)
        joined.rows = {role: torch.cat([batch.rows[role] for batch in batches]) for role in first.rows}
        maps = {
            role: {layer: torch.cat([batch.maps[role][layer] for batch in batches]) for layer in of_role}
            for role, of_role in first.maps.items()
        }
        joined._steps = [maps]
        steps = zip(*(batch.timesteps for batch in batches), strict=True)
        joined._timesteps = [torch.tensor([t for of_rows in step for t in of_rows or ()]) for step in steps]
        joined.passes = first.passes
        return joined
