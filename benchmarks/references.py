"""Other ways to do what a training step does, which `step_cost` compares ours with."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from mcpkg.method.attention_capture import find_cross_attention
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import remove_lora
from mcpkg.method.lora_layers import LEAN_LAYERS


@contextmanager
def peft_layers(unet: nn.Module) -> Iterator[None]:
    """Within the block, LoRA goes through peft's own forward pass, as it did before `lora_layers`."""
    lean = [module for module in unet.modules() if isinstance(module, tuple(LEAN_LAYERS.values()))]
    classes = [type(module) for module in lean]
    for module, of_module in zip(lean, classes, strict=True):
        (module.__class__,) = (base for base in of_module.__bases__ if issubclass(base, nn.Module))
    try:
        yield
    finally:
        for module, of_module in zip(lean, classes, strict=True):
            module.__class__ = of_module


@contextmanager
def without_lora(backend: Backend) -> Iterator[None]:
    """Within the block, the backend's UNet has no LoRA; it shares all other weights with the one that has."""
    adapted = backend.pipeline.unet
    backend.pipeline.unet = copy.deepcopy(adapted, {id(parameter): parameter for parameter in adapted.parameters()})
    remove_lora(backend.pipeline.unet)
    try:
        yield
    finally:
        backend.pipeline.unet = adapted


class SpelledOut:
    """Attention whose probabilities are computed in full and kept, with gradient."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        if encoder_hidden_states is None:  # self-attention
            encoder_hidden_states = hidden_states
        query, key, value = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)                           # b heads n d
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, encoder_hidden_states),
                               (attn.to_v, encoder_hidden_states))
        )  # fmt: skip
        self.probabilities = (query @ key.mT * attn.scale).softmax(dim=-1)  # b heads cells n
        return attn.to_out[1](attn.to_out[0]((self.probabilities @ value).transpose(1, 2).flatten(2)))


@contextmanager
def spelled_out(
    backend: Backend, positions: dict[str, Tensor], self_attention: bool = False
) -> Iterator[Callable[[], AttentionMaps]]:
    """Within the block every cross-attention layer is spelled out; yields a function that reads the maps.

    Args:
        self_attention: spell out those layers as well, in whose maps nobody is interested.
    """
    unet, size = backend.pipeline.unet, backend.attention_size
    layers = find_cross_attention(unet)
    every = [module for module in unet.modules() if isinstance(module, Attention)]
    before = {layer: layer.processor for layer in (every if self_attention else layers.values())}
    for layer in before:
        layer.set_processor(SpelledOut())

    def maps() -> AttentionMaps:
        """Of the layers that refocusing reads: see `refocusing.capture_placeholders`."""
        captured = AttentionMaps(positions)
        named = {role: {} for role in positions}
        for name, layer in layers.items():
            full = layer.processor.probabilities
            if name.startswith(("down_blocks", "up_blocks")) and full.shape[2] == size**2:
                for role, at in positions.items():
                    wanted = at[captured.rows[role]].to(full)[:, None, :, None]  # r 1 n 1
                    columns = full[captured.rows[role].to(full.device)] @ wanted  # r heads cells 1
                    named[role][name] = columns[..., 0].unflatten(-1, (size, size))
        captured.add(named, 0)
        return captured

    try:
        yield maps
    finally:
        for layer, processor in before.items():
            layer.set_processor(processor)
