"""Interventions on one word while a UNet runs: its attention is taken away, or its text states are replaced.

A layer's cross-attention gives each cell the sum over tokens of A_k V_k (Eq. 2), so that one token's part of it is
known: `remove_attention` computes it beside the fused attention and subtracts it where asked, before the layer's output
projection. The other tokens keep their attention: A is not normalised again, which would hand the word's part to them
and mix its loss with their gain. Where nothing is removed, the output stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models import attention_processor as processors
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mcpkg.method.attention_capture import check_processors, check_rows, find_cross_attention, split_heads
from mcpkg.method.attention_maps import attention_columns, grid_size
from mcpkg.method.compiled import original_model, run_uncompiled

PROJECTIONS = {"query": "to_q", "key": "to_k", "value": "to_v"}


class _Remover:
    """The hooks of one `remove_attention` block."""

    def __init__(
        self,
        positions: Bool[Tensor, "b n"],
        removed: Float[Tensor, "b 1 H W"],
        layers: dict[str, processors.Attention],
    ):
        self.positions, self.removed, self.layers = positions, removed, layers
        self.at = positions.any(dim=0).nonzero().flatten().cpu()  # tokens that any prompt wants removed
        self.one_hot = torch.diag_embed(positions.cpu())[:, self.at]  # b k n
        self.passes = 0

    def begin(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the UNet runs: reset, and check the processors."""
        self.latent_size = tuple((kwargs["sample"] if "sample" in kwargs else args[0]).shape[-2:])
        self.parts: dict[str, dict[str, Tensor]] = {name: {} for name in self.layers}
        self.done: set[str] = set()
        check_processors(self.layers)

    def read(self, name: str, part: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        """After a projection. One that LoRA has wrapped since the block began is no longer the layer's own."""
        if module is getattr(self.layers[name], PROJECTIONS[part]):
            self.parts[name][part] = output

    def read_mask(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before an attention layer: keep the mask over text tokens, if there is one."""
        if kwargs.get("attention_mask") is not None:
            self.parts[name]["mask"] = kwargs["attention_mask"]

    def subtract(self, name: str, module: nn.Module, args: tuple) -> tuple:
        """Before a layer's output projection: take the tokens' part out of the prompted rows."""
        layer, parts = self.layers[name], self.parts.pop(name, {})
        if not PROJECTIONS.keys() <= parts.keys() or module is not layer.to_out[0]:
            return args  # `end` says so
        self.done.add(name)
        hidden, b = args[0], len(self.positions)
        part = self._of_tokens(layer, **parts).to(hidden.device)  # b cells heads*d
        prompted = (hidden[-b:].float() - part).to(hidden.dtype)
        return torch.cat((hidden[:-b], prompted)), *args[1:]

    def end(self, unet: nn.Module, args: tuple, output) -> None:
        """After the UNet has run: every layer must have been reached."""
        lacking = [name for name in self.layers if name not in self.done]
        if lacking:
            raise RuntimeError(
                f"{lacking[0]} and {len(lacking) - 1} more of {len(self.layers)} layers kept their attention: their "
                "projections are fused, or were replaced since the block began. Add LoRA before it; do not fuse."
            )
        self.passes += 1

    def _of_tokens(
        self, layer: processors.Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "b cells _"]:
        """What the tokens add to the attention's output, times the fraction of it to remove in each cell."""
        b, n = self.positions.shape
        check_rows((b, n), query, key)
        removed = F.adaptive_avg_pool2d(self.removed.to(query), grid_size(query.shape[1], *self.latent_size))
        bias = None if mask is None else mask[-b:].reshape(b, 1, -1, n)
        query, key = split_heads(layer, query[-b:], key[-b:])
        columns = attention_columns(query, key, self.one_hot.to(query.device), bias)  # b k heads cells
        value = value[-b:, self.at.to(value.device)].unflatten(-1, (layer.heads, -1))  # b k heads d
        with torch.autocast(query.device.type, enabled=False):
            columns = columns * removed.float().flatten(1)[:, None, None]
            return torch.einsum("bkhc,bkhd->bchd", columns, value.float()).flatten(2)


@contextmanager
def remove_attention(
    unet: nn.Module, positions: Bool[Tensor, "b n"], removed: Float[Tensor, "b 1 H W"], layers: str | None = None
) -> Iterator[None]:
    """Within the block, the given tokens' attention is 0 (after the softmax) where `removed` is 1.

    Args:
        unet: any diffusers UNet with text cross-attention, with or without LoRA or autocast; a compiled one runs
            uncompiled within the block.
        positions: where the tokens stand in each prompt. A UNet batch of twice as many rows is a guidance batch,
            [unconditional, conditional]: only its second half is changed.
        removed: fraction of the tokens' attention to remove at each place of the image, at any resolution; averaged
            over each cell of a layer's grid.
        layers: which cross-attention layers, see `capture_attention`; all if None.

    Raises:
        ValueError: if no layer matches, or shapes do not fit.
        RuntimeError: if a layer's processor is not one whose attention is known, a layer did not run, or the UNet never
            ran in the block.
    """
    remover = _Remover(positions, removed, find_cross_attention(unet, layers))
    with ExitStack() as hooks:
        hooks.enter_context(run_uncompiled(unet))

        def install(handle) -> None:
            hooks.callback(handle.remove)

        for name, layer in remover.layers.items():
            install(layer.register_forward_pre_hook(partial(remover.read_mask, name), with_kwargs=True))
            for part, attribute in PROJECTIONS.items():
                install(getattr(layer, attribute).register_forward_hook(partial(remover.read, name, part)))
            install(layer.to_out[0].register_forward_pre_hook(partial(remover.subtract, name)))
        install(original_model(unet).register_forward_pre_hook(remover.begin, with_kwargs=True))
        install(original_model(unet).register_forward_hook(remover.end))
        yield
    if remover.passes == 0:
        raise RuntimeError("the UNet never ran within remove_attention. Call it as unet(...), inside the block.")


@contextmanager
def replace_text_states(
    unet: nn.Module, positions: Bool[Tensor, "b n"], states: Float[Tensor, "b n d"]
) -> Iterator[None]:
    """Within the block, the UNet reads other text states at the given positions.

    Args:
        positions: where to replace, in each prompt; of a guidance batch, only the second half is changed.
        states: as the text encoder gives them, see `encode_prompts`; read where `positions` is True.

    Raises:
        ValueError: shapes do not fit.
    """

    def replace(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        by_name = "encoder_hidden_states" in kwargs
        given = kwargs["encoder_hidden_states"] if by_name else args[2]
        b, n = positions.shape
        check_rows((b, n), given, given)
        prompted = torch.where(positions[..., None].to(given.device), states.to(given), given[-b:])
        changed = torch.cat((given[:-b], prompted))
        if by_name:
            return args, kwargs | {"encoder_hidden_states": changed}
        return (*args[:2], changed, *args[3:]), kwargs

    handle = unet.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
