"""Capture of chosen tokens' cross-attention maps, computed next to the fused attention, which is unchanged (Eq. 2).

Hooks on each layer's query and key projections keep their outputs; the processor runs untouched, so the UNet's
output is the same to the bit. When the UNet has finished, the columns of the wanted tokens are computed from them,
with gradient, layer by layer and only for the layers, grids and prompts that were asked for. That happens outside
any gradient checkpoint, so a recomputation has nothing to repeat.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from diffusers.models import attention_processor as processors
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mcpkg.method.attention_maps import KEEP, AttentionMaps, attention_columns, grid_size
from mcpkg.method.compiled import original_model, original_name, run_uncompiled
from mcpkg.method.model_walk import walk_modules

SOFTMAX_PROCESSORS = (
    processors.AttnProcessor,
    processors.AttnProcessor2_0,
    processors.SlicedAttnProcessor,
    processors.XFormersAttnProcessor,
)
"""Processors known to compute plain softmax(QK^T / sqrt(d)) V from to_q, to_k and to_v."""
PROJECTIONS = {"query": "to_q", "key": "to_k"}


def find_cross_attention(
    unet: nn.Module, layers: str | Callable[[str], bool] | None = None
) -> dict[str, processors.Attention]:
    """Cross-attention layers by name, in the order of the UNet's modules.

    Raises:
        ValueError: if none matches; names those that there are.
    """
    every = {
        original_name(name): module
        for name, module in walk_modules(unet)
        if isinstance(module, processors.Attention) and module.is_cross_attention
    }
    match = re.compile(layers).search if isinstance(layers, str) else layers or (lambda name: True)
    chosen = {name: module for name, module in every.items() if match(name)}
    if not chosen:
        raise ValueError(f"layers: none matches {layers!r}. Cross-attention layers: {list(every)}.")
    return chosen


def check_processors(layers: Mapping[str, processors.Attention]) -> None:
    """Raise unless every layer's attention is the plain softmax.

    Raises:
        RuntimeError: names the first layer that may compute another.
    """
    for name, layer in layers.items():
        if type(layer.processor) not in SOFTMAX_PROCESSORS:
            raise RuntimeError(
                f"{name}: its processor is {type(layer.processor).__name__}, whose attention may not be a plain "
                "softmax. Call unet.set_attn_processor(AttnProcessor2_0()) first."
            )


def check_rows(expected: tuple[int, int], query: Float[Tensor, "r _ _"], key: Float[Tensor, "r _ _"]) -> None:
    """Raise unless a UNet batch holds the expected prompts, alone or as the second half of a guidance batch.

    Args:
        expected: number of prompts and of their tokens.

    Raises:
        ValueError: other numbers of rows or tokens.
    """
    b, n = expected
    if key.shape[1] != n or len(query) not in (b, 2 * b):
        raise ValueError(
            f"positions: a mask of {b} rows and {n} tokens does not fit a UNet batch of {len(query)} rows and "
            f"{key.shape[1]} tokens. Give one row per prompt, or per conditional prompt of a guidance batch."
        )


def split_heads(
    layer: processors.Attention, query: Float[Tensor, "b cells _"], key: Float[Tensor, "b n _"]
) -> tuple[Float[Tensor, "b heads cells d"], Float[Tensor, "b heads n d"]]:
    """A layer's projections by head, normalised if the layer does that."""
    query, key = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (query, key))
    query = query if layer.norm_q is None else layer.norm_q(query)
    return query, key if layer.norm_k is None else layer.norm_k(key)


class _Recorder:
    """The hooks of one `capture_attention` block."""

    def __init__(
        self,
        maps: AttentionMaps,
        positions: Mapping[str, Bool[Tensor, "b n"]],
        layers: dict[str, processors.Attention],
        min_size,
        max_size,
    ):
        self.maps, self.layers = maps, layers
        self.positions = torch.stack([where.cpu() for where in positions.values()], dim=1)  # b tokens n
        self.used = self.positions.any(dim=(1, 2)).nonzero().flatten()  # rows with any token
        self.of_role = {name: rows[self.used].nonzero().flatten() for name, rows in maps.rows.items()}
        self.min_size, self.max_size = min_size, max_size
        self.running = False

    def begin(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the UNet runs: reset, and check the processors."""
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args)) | kwargs
        self.latent_size = tuple(given["sample"].shape[-2:])
        self.timestep = given["timestep"]
        self.gradient = torch.is_grad_enabled()
        self.parts: dict[str, dict[str, Tensor]] = {name: {} for name in self.layers}
        self.running = True
        check_processors(self.layers)

    def read(self, name: str, part: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        """After a query or key projection. A checkpoint's recomputation comes after the UNet has ended: ignored."""
        # What LoRA has wrapped since the block began is no longer the layer's own projection, but a part of it.
        if self.running and module is getattr(self.layers[name], PROJECTIONS[part]):
            if torch.is_grad_enabled() != self.gradient:
                self.running = False
                raise RuntimeError(
                    f"{name}: ran without gradient, as in a reentrant checkpoint: an attention loss would have none. "
                    "Call unet.enable_gradient_checkpointing() without arguments, which is not reentrant."
                )
            self.parts[name][part] = output

    def read_mask(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before an attention layer: keep the mask over text tokens, if there is one."""
        mask = kwargs.get("attention_mask")
        if self.running and mask is not None:
            self.parts[name]["mask"] = mask

    def end(self, unet: nn.Module, args: tuple, output) -> None:
        """After the UNet has run: compute the wanted columns of every layer."""
        self.running = False
        lacking = [name for name, parts in self.parts.items() if not {"query", "key"} <= parts.keys()]
        if lacking:
            raise RuntimeError(
                f"{lacking[0]} and {len(lacking) - 1} more of {len(self.layers)} layers gave no attention: their "
                "projections are fused, or were replaced since the block began. Add LoRA before it; do not fuse."
            )
        maps: dict[str, dict[str, Tensor]] = {role: {} for role in self.of_role}
        sizes, parts, self.parts = set(), self.parts, {}
        for name, layer in self.layers.items():
            h, w = grid_size(parts[name]["query"].shape[1], *self.latent_size)
            sizes.add(max(h, w))
            if self.min_size <= max(h, w) <= self.max_size:
                columns = self._columns(layer, **parts[name]).unflatten(-1, (h, w))  # u tokens heads h w
                for number, (role, rows) in enumerate(self.of_role.items()):
                    maps[role][name] = columns[rows.to(columns.device), number]
        if not any(maps.values()):
            raise ValueError(f"no layer's grid is within {self.min_size} to {self.max_size}. Grids: {sorted(sizes)}.")
        self.maps.add(maps, self.timestep)

    def _columns(
        self, layer: processors.Attention, query: Tensor, key: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "u tokens heads cells"]:
        b, _, n = self.positions.shape
        check_rows((b, n), query, key)
        at = (self.used + len(query) - b).to(query.device)  # guidance: the second half
        if len(at) < len(query):
            query, key = query[at], key[at]
        query, key = split_heads(layer, query, key)
        if self.maps.heads is not None:
            if not all(0 <= head < layer.heads for head in self.maps.heads):
                raise ValueError(f"heads: {self.maps.heads} asked of a layer with heads 0 to {layer.heads - 1}.")
            query, key = query[:, self.maps.heads], key[:, self.maps.heads]
        bias = None if mask is None else mask[at].reshape(len(at), 1, -1, n)
        return attention_columns(query, key, self.positions[self.used].to(query.device), bias)


@contextmanager
def capture_attention(
    unet: nn.Module,
    positions: Mapping[str, Bool[Tensor, "b n"]],
    *,
    layers: str | Callable[[str], bool] | None = None,
    heads: Sequence[int] | None = None,
    min_size: int = 1,
    max_size: int | None = None,
    keep: str = "last",
) -> Iterator[AttentionMaps]:
    """Capture cross-attention maps of chosen tokens in every forward pass within the block.

    Args:
        unet: any diffusers UNet with text cross-attention, with or without LoRA, checkpointing or autocast. A compiled
            one runs uncompiled within the block, because compiled code runs no new hooks.
        positions: name, such as a role -> where its tokens stand in each prompt; a row without any is left out of the
            maps. A UNet batch of twice as many rows is a guidance batch, [unconditional, conditional]: its second
            half is read.
        layers: which cross-attention layers: a regular expression searched in the layer's name, or a
            predicate of the name; all if None.
        heads: indices of the heads to keep; all if None.
        min_size, max_size: bounds of the longer side of a map's grid, in latent cells, both inclusive.
        keep: "last" holds the latest forward pass with its gradient. The others are detached and on the CPU: "mean"
            and "max" reduce over forward passes as these come, so that memory does not grow with them; "all" keeps
            every pass as a step.

    Yields:
        AttentionMaps, filled each time the UNet has run.

    Raises:
        ValueError: if no layer matches, a token is in no prompt, or shapes do not fit.
        RuntimeError: if a layer's processor is not one whose attention is known, a layer did not run or ran without
            gradient, or the UNet never ran in the block.
    """
    if keep not in KEEP:
        raise ValueError(f"keep: {keep!r} unknown. Choose from {list(KEEP)}.")
    absent = [name for name, where in positions.items() if not where.any()]
    if absent or not positions:
        raise ValueError(
            f"positions: {absent or 'none given'}: in no prompt. Use token_positions on the prompts you run."
        )
    if len({where.shape for where in positions.values()}) > 1:
        raise ValueError("positions: masks of different shapes. Give each token a mask over the same prompts.")
    maps = AttentionMaps(positions, heads, keep)
    recorder = _Recorder(maps, positions, find_cross_attention(unet, layers), min_size, max_size or math.inf)
    with ExitStack() as hooks:
        hooks.enter_context(run_uncompiled(unet))

        def install(handle) -> None:
            hooks.callback(handle.remove)

        for name, layer in recorder.layers.items():
            install(layer.register_forward_pre_hook(partial(recorder.read_mask, name), with_kwargs=True))
            for part, attribute in PROJECTIONS.items():
                install(getattr(layer, attribute).register_forward_hook(partial(recorder.read, name, part)))
        install(original_model(unet).register_forward_pre_hook(recorder.begin, with_kwargs=True))
        install(original_model(unet).register_forward_hook(recorder.end))
        yield maps
    if maps.passes == 0:
        raise RuntimeError(
            "the UNet never ran within capture_attention. Call it as unet(...), inside the block; if you have compiled "
            "it, give capture_attention the compiled one."
        )
