"""Where placeholders are attended to while portraits are drawn: every map's leakage, and one portrait with its maps."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import Generated, draw_batches
from mcpkg.inference.sampling import Sampling
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import role_region
from mcpkg.metrics.leakage import LeakageRow, area_outside, attention_leakage, attention_mass, leakage_rows


@torch.no_grad()
def trace_leakage(
    backend: Backend,
    adapter: Adapter,
    sampling: Sampling = Sampling(),
    all_layers: bool = False,
    batch_size: int = 4,
) -> list[LeakageRow]:
    """Draw portraits and give every attention map's leakage: by token, sample, layer, head and timestep.

    Args:
        sampling: see `generate_portraits`; samples are counted from 0.
        all_layers: also the layers of other grids than `backend.attention_size`.
        batch_size: portraits whose maps are held at a time.

    Returns:
        Rows whose leakage is NaN where the portrait does not show exactly one face: the region is unknown there.
    """
    tokens = {role: placeholder.token for role, placeholder in adapter.placeholders.items()}
    rows, done = [], 0
    for batch in draw_batches(backend, adapter, None, sampling, "all", all_layers=all_layers, batch_size=batch_size):
        rows += [
            row._replace(sample=row.sample + done, token=tokens[row.token])
            for row in leakage_rows(batch.maps, _regions(backend, batch))
        ]
        done += len(batch.images)
    return rows


def _regions(backend: Backend, drawn: Generated) -> dict[str, Float[Tensor, "n 1 h w"]]:
    """Role -> its region in each portrait; empty where a portrait does not show exactly one face."""
    faces = backend.face_parser.parse(drawn.images)
    one_face = (faces.count == 1).float()[:, None, None, None]
    return {role: (role_region(role, faces.face_mask) * one_face).cpu() for role in drawn.maps.roles}


@dataclass(frozen=True)
class AttentionTrace:
    """One portrait with every attention map of its drawing.

    `chosen` in its methods are layer, head and timestep; what is left out is averaged over, all layers meaning those
    whose grid is refocused and scored.
    """

    image: Float[Tensor, "3 h w"]
    maps: AttentionMaps
    """Every layer, head and step, from the first step of drawing to the last."""
    regions: dict[str, Float[Tensor, "1 1 h w"]]
    """Role -> where its placeholder should be attended to; zeros if the portrait does not show exactly one face, and
    leakage is NaN then."""
    tokens: dict[str, str]
    """Role -> its placeholder, such as "<v1>"."""
    size: int
    """Grid of the layers that are refocused and scored."""

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Timestep of each denoising step, from high to low."""
        return tuple(step[0] for step in self.maps.timesteps)

    def heatmap(self, role: str, **chosen: str | int | None) -> Float[Tensor, "k l"]:
        """Attention to the role's placeholder, in [0, 1] per cell.

        Raises:
            ValueError: no such role, layer, head or timestep; names those that there are.
        """
        return self.maps.heatmap(role, size=self.size, **chosen)[0]

    def heads(self, role: str, **chosen: str | int | None) -> Float[Tensor, "1 heads k l"]:
        """Every head's map by itself; those of several layers one after the other."""
        return self.maps.select(role, size=self.size, **chosen).mean(dim=1)

    def leakage(self, role: str, **chosen: str | int | None) -> float:
        """Fraction of the map's attention outside the role's region."""
        return attention_leakage(self.heatmap(role, **chosen)[None, None], self.regions[role]).item()

    def mass(self, role: str, **chosen: str | int | None) -> float:
        """Mean attention inside the role's region."""
        return attention_mass(self.heatmap(role, **chosen)[None, None], self.regions[role]).item()

    def area_outside(self, role: str) -> float:
        """The leakage of attention that is the same everywhere."""
        return area_outside(self.regions[role]).item()


@torch.no_grad()
def record_attention(backend: Backend, adapter: Adapter, sampling: Sampling = Sampling()) -> AttentionTrace:
    """Draw one portrait and keep each placeholder's map of every layer, head and timestep.

    Args:
        sampling: see `generate_portraits`; its first portrait is drawn.
    """
    sampling = replace(sampling, seeds=sampling.all_seeds[:1])
    (drawn,) = draw_batches(backend, adapter, None, sampling, "all", all_layers=True)
    tokens = {role: placeholder.token for role, placeholder in adapter.placeholders.items()}
    return AttentionTrace(drawn.images[0].cpu(), drawn.maps, _regions(backend, drawn), tokens, backend.attention_size)
