"""Where the words look while portraits are drawn: leakage map by map, and one portrait with all of its maps."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import full_prompt, generate_portraits
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.attention_maps import MapStore
from mcpkg.method.interfaces import Backend
from mcpkg.method.masks import ROLE_MASKS
from mcpkg.method.prompts import token_positions
from mcpkg.metrics.leakage import LeakageRow, area_outside, attention_leakage, attention_mass, leakage_rows


@torch.no_grad()
def trace_leakage(
    backend: Backend,
    adapter: Adapter,
    n: int = 8,
    seed: int = 0,
    all_layers: bool = False,
    lora_scale: float = 1.0,
    edit: str = "",
    guidance: float | None = None,
    plain_guidance: bool = True,
    batch_size: int = 4,
    **drawing: float | str | bool | None,
) -> list[LeakageRow]:
    """Draw portraits and give every attention map's leakage: by token, sample, layer, head and timestep.

    Args:
        n, seed, lora_scale, edit, guidance, plain_guidance, drawing: see `generate_portraits`; samples are counted
            from 0.
        all_layers: also the layers of other grids than `backend.attention_size`.
        batch_size: portraits whose maps are held at a time.

    Returns:
        Rows whose leakage is NaN where the portrait does not show exactly one face, for then nobody can say where
        the words should have looked.
    """
    size = None if all_layers else backend.attention_size
    prompt, rows = full_prompt(adapter, None, edit), []
    guidance = backend.default_guidance if guidance is None else guidance
    with adapter.applied(backend, lora_scale, plain_guidance and guidance > 1):
        for start in range(0, n, batch_size):
            count = min(batch_size, n - start)
            _, regions, store = _draw_captured(
                backend, adapter, size, prompt=prompt, n=count, seed=seed + start, guidance=guidance, **drawing
            )
            rows += [row._replace(sample=row.sample + start) for row in leakage_rows(store, regions)]
    return rows


@dataclass(frozen=True)
class AttentionTrace:
    """One portrait and every attention map of its drawing. Where an argument is None, the mean over it is meant."""

    image: Float[Tensor, "3 h w"]
    regions: dict[str, Float[Tensor, "1 1 h w"]]
    """Token -> where it should look; zeros if the portrait does not show exactly one face, and leakage is NaN then."""
    maps: dict[str, dict[str, Float[Tensor, "_ _ _ _"]]]
    """Token -> layer -> maps (steps heads k l), from the first step of drawing to the last; grids differ by layer."""
    timesteps: tuple[int, ...]
    """Of the steps, falling."""
    size: int
    """Grid of the layers that "all layers" means: those that are refocused and scored."""

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.maps)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(next(iter(self.maps.values())))

    def head_count(self, layer: str | None = None) -> int:
        """Heads that every layer in question has."""
        return min(maps.shape[1] for maps in self._layers(self.tokens[0], layer))

    def heads(self, token: str, layer: str | None = None, timestep: int | None = None) -> Float[Tensor, "1 heads k l"]:
        """Every head's map by itself; those of several layers one after the other."""
        maps = torch.cat(self._layers(token, layer), dim=1)  # steps heads k l
        return maps[self._steps(timestep)].mean(dim=0, keepdim=True)

    def heat(
        self, token: str, layer: str | None = None, head: int | None = None, timestep: int | None = None
    ) -> Float[Tensor, "k l"]:
        """Attention to the token, in [0, 1] per cell.

        Raises:
            ValueError: no such token, layer, head or timestep; says which there are.
        """
        chosen = range(self.head_count(layer))
        if head is not None and head not in chosen:
            raise ValueError(f"head: {head} unknown. Choose from 0 to {chosen[-1]}.")
        layers = [maps[self._steps(timestep)] for maps in self._layers(token, layer)]  # each steps heads k l
        return torch.cat(layers if head is None else [maps[:, [head]] for maps in layers], dim=1).mean(dim=(0, 1))

    def leakage(self, token: str, **which: str | int | None) -> float:
        """Share of the map's attention outside the token's region; arguments as of `heat`."""
        return attention_leakage(self.heat(token, **which)[None, None], self.regions[token]).item()

    def mass(self, token: str, **which: str | int | None) -> float:
        """Mean attention inside the token's region; arguments as of `heat`."""
        return attention_mass(self.heat(token, **which)[None, None], self.regions[token]).item()

    def area_outside(self, token: str) -> float:
        """The leakage of attention that is the same everywhere."""
        return area_outside(self.regions[token]).item()

    def _layers(self, token: str, layer: str | None) -> list[Float[Tensor, "_ _ _ _"]]:
        if token not in self.maps:
            raise ValueError(f"token: {token!r} unknown. Choose from {list(self.tokens)}.")
        of_token = self.maps[token]
        if layer is not None and layer not in of_token:
            raise ValueError(f"layer: {layer!r} unknown. Choose from {list(self.layers)}.")
        return [maps for name, maps in of_token.items()
                if (max(maps.shape[-2:]) == self.size if layer is None else name == layer)]  # fmt: skip

    def _steps(self, timestep: int | None) -> slice:
        if timestep is None:
            return slice(None)
        if timestep not in self.timesteps:
            raise ValueError(f"timestep: {timestep} unknown. Choose from {list(self.timesteps)}.")
        at = self.timesteps.index(timestep)
        return slice(at, at + 1)


@torch.no_grad()
def record_attention(
    backend: Backend,
    adapter: Adapter,
    seed: int = 0,
    lora_scale: float = 1.0,
    edit: str = "",
    guidance: float | None = None,
    plain_guidance: bool = True,
    **drawing: float | str | bool | None,
) -> AttentionTrace:
    """Draw one portrait and keep each placeholder's map of every layer, head and timestep.

    Args:
        seed, lora_scale, edit, guidance, plain_guidance, drawing: see `generate_portraits`.
    """
    guidance = backend.default_guidance if guidance is None else guidance
    with adapter.applied(backend, lora_scale, plain_guidance and guidance > 1):
        images, regions, store = _draw_captured(
            backend,
            adapter,
            None,
            prompt=full_prompt(adapter, None, edit),
            n=1,
            seed=seed,
            guidance=guidance,
            **drawing,
        )
    passes = [named for _, named in store.history]
    maps = {
        token: {
            layer: torch.cat([named[token][i][1] for named in passes]) for i, (layer, _) in enumerate(passes[0][token])
        }
        for token in passes[0]
    }
    timesteps = tuple(of_rows[0] for of_rows, _ in store.history)
    return AttentionTrace(images[0].cpu(), regions, maps, timesteps, backend.attention_size)


def _draw_captured(
    backend: Backend, adapter: Adapter, size: int | None, prompt: str, n: int, **drawing
) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Float[Tensor, "n 1 h w"]], MapStore]:
    """Portraits of what is applied to the backend, token -> where it should have looked, and its maps of one grid.

    A region is empty where a portrait does not show exactly one face.
    """
    pipeline = backend.pipeline
    positions = {
        word.token: token_positions(pipeline.tokenizer, [prompt] * n, word.token)
        for word in adapter.placeholders.values()
    }
    with capture_attention(pipeline.unet, positions, min_size=size or 1, max_size=size, keep="all") as store:
        images = generate_portraits(backend, prompt=prompt, n=n, batch_size=n, **drawing).images
    faces = backend.face_parser.parse(images)
    one_face = (faces.count == 1).float()[:, None, None, None]
    regions = {word.token: (ROLE_MASKS[role](faces) * one_face).cpu() for role, word in adapter.placeholders.items()}
    return images, regions, store
