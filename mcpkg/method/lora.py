"""LoRA, W' = W + U V^T (Eq. 3), through peft; on request at the placeholders' tokens only."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mcpkg.method.batch import ROLES
from mcpkg.method.interfaces import Backend
from mcpkg.method.model_walk import walk_modules
from mcpkg.method.placeholders import Placeholder
from mcpkg.method.prompts import find_token

LORA_TARGETS = {
    "cross_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "cross_attention_kv": ("attn2.to_k", "attn2.to_v"),
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj"),
    "all": (
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
        "conv1", "conv2", "conv_shortcut",
    ),
}  # fmt: skip
"""`Method.lora_layers` -> suffixes of the layers' names; Eq. 3 adapts the projections of cross-attention."""


TEXT_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
"""Suffixes of the text encoder's layers that have LoRA with `Method.text_lora`."""
TEXT_PREFIX = "text_encoder.text_model."
"""Begins the names of the text encoder's LoRA in an adapter, as other tools expect it; those of the UNet's have no
prefix."""
PEFT_NAME = "mcpkg"
"""Of our LoRA in a UNet that may have others."""


def add_lora(
    unet: nn.Module,
    rank: int,
    layers: str = "cross_attention",
    generator: torch.Generator | None = None,
    tokens: str = "all",
    noise: float = 0.0,
) -> dict[str, nn.Parameter]:
    """Add U V^T (Eq. 3) to the layers in `LORA_TARGETS`, V drawn from the generator, U zero; return U and V.

    Args:
        layers, tokens: as `Method.lora_layers` and `Method.lora_tokens`; at "placeholders", call `set_lora_tokens`
            before the UNet runs.
        noise: as `Method.lora_noise`: V's standard deviation; 0 for uniform values, as peft draws them.

    Note:
        In the paper of token-aware LoRA (Peng et al. 2025, arXiv 2508.08812) every concept has a LoRA of its own, on
        queries and outputs as well, where it acts at all cells. Here one LoRA serves both placeholders.
    """
    return _draw_start(_wrap(unet, rank, LORA_TARGETS[layers], tokens), generator, noise)


def add_text_lora(
    text_encoder: nn.Module, rank: int, generator: torch.Generator, noise: float = 0.0
) -> dict[str, nn.Parameter]:
    """Add U V^T to the projections of the text encoder's attention, as `add_lora` does to the UNet's."""
    return _draw_start(_wrap(text_encoder, rank, TEXT_TARGETS, "all"), generator, noise)


def _draw_start(
    parameters: dict[str, nn.Parameter], generator: torch.Generator | None, noise: float
) -> dict[str, nn.Parameter]:
    for name, parameter in parameters.items():
        if generator is not None and "lora_A" in name:  # V, which is applied to the layer's input
            options = {"generator": generator, "device": generator.device}
            if noise > 0:
                parameter.data.copy_(noise * torch.randn(parameter.shape, **options))
            else:
                bound = parameter[0].numel() ** -0.5
                parameter.data.copy_((2 * torch.rand(parameter.shape, **options) - 1) * bound)
    return parameters


def _wrap(unet: nn.Module, rank: int, targets: Iterable[str], tokens: str) -> dict[str, nn.Parameter]:
    from peft import LoraConfig

    from mcpkg.method.lora_layers import LEAN_LAYERS

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    if tokens == "all":  # at some tokens only, no sum of matrices does the same
        config._register_custom_module(LEAN_LAYERS)
    with torch.random.fork_rng(devices=[]):  # peft draws from torch's global generator, which must not advance
        unet.add_adapter(config, PEFT_NAME)
    parameters = {name: parameter for name, parameter in unet.named_parameters() if f".{PEFT_NAME}." in name}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()  # peft uses the type of the layer's own weight
    if tokens == "placeholders":
        ends = tuple(f"{layer}.lora_A.{PEFT_NAME}" for layer in LORA_TARGETS["cross_attention_kv"])
        for name, module in unet.named_modules():
            if name.endswith(ends):
                module.token_positions = None
                module.register_forward_pre_hook(_keep_tokens)
    return parameters


def _keep_tokens(factor: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Before V of a layer: its input, 0 but at the placeholders. LoRA is linear, so it adds 0 at all other tokens.

    Raises:
        RuntimeError: no positions were set, or for another batch.
    """
    (text,), positions = args, factor.token_positions  # b n d, b n
    if positions is not None and 2 * len(text) == len(positions):
        positions = positions[len(text) :]  # guidance, where the first half does not get here: see `plain_first_half`
    if positions is None or positions.shape != text.shape[:2]:
        known = "nothing" if positions is None else f"a batch of {tuple(positions.shape)} tokens"
        raise RuntimeError(
            f"a LoRA that acts at placeholders only: got {tuple(text.shape[:2])} tokens, and {known} is set. Call "
            "set_lora_tokens(backend, ids) with the ids of the prompts before the UNet runs."
        )
    return (text * positions[..., None].to(text),)


def set_lora_tokens(backend: Backend, ids: Int[Tensor, "b n"], placeholders: Mapping[str, Placeholder] = ROLES) -> None:
    """Tell a LoRA that acts at placeholders only where they stand, each row by itself; any other LoRA stays as it is.

    Holds for all batches until the next call, because gradient checkpointing runs the layers again after the forward
    pass.

    Args:
        ids: of the prompts as the UNet will get them; under guidance, the rows without the prompt first.
        placeholders: role -> placeholder.

    Raises:
        ValueError: a placeholder was never added to the tokenizer.
    """
    limited = [
        factor
        for _, layer in walk_modules(backend.pipeline.unet)
        if "lora_A" in layer._modules
        for factor in layer.lora_A.values()
        if "token_positions" in vars(factor)
    ]
    if limited:
        tokens = (placeholder.token for placeholder in placeholders.values())
        found = [find_token(backend.pipeline.tokenizer, ids, token) for token in tokens]
        positions = torch.stack(found).any(dim=0).to(backend.device)  # b n
        for module in limited:
            module.token_positions = positions


def lora_shapes(
    unet: nn.Module, rank: int, targets: Iterable[str] = LORA_TARGETS["cross_attention"]
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that `read_lora` returns after `add_lora`, which is not called."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if not f".{name}".endswith(tuple(f".{target}" for target in targets)):
            continue
        weight = getattr(module, "base_layer", module).weight  # another LoRA may be around the layer
        shapes[f"{name}.lora_A.weight"] = (rank, *weight.shape[1:])
        shapes[f"{name}.lora_B.weight"] = (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
    return shapes


def read_lora(unet: nn.Module) -> dict[str, Tensor]:
    """Return the LoRA that `add_lora` added, in the adapter's format."""
    from peft import get_peft_model_state_dict

    return on_cpu(get_peft_model_state_dict(unet, adapter_name=PEFT_NAME))


def load_lora(unet: nn.Module, lora: dict[str, Tensor], rank: int, scale: float, tokens: str = "all") -> None:
    """Add a LoRA that `read_lora` returned to the layers that it names, at strength `scale`; tokens: see `add_lora`."""
    from peft import set_peft_model_state_dict

    _wrap(unet, rank, sorted({name.partition(".lora_")[0] for name in lora}), tokens)
    set_peft_model_state_dict(unet, lora, adapter_name=PEFT_NAME)
    unet.set_adapters(PEFT_NAME, scale)


def remove_lora(unet: nn.Module) -> None:
    """Take the LoRA that `add_lora` or `load_lora` added out of the UNet, if there is one; others stay."""
    if PEFT_NAME in getattr(unet, "peft_config", {}):
        unet.delete_adapters(PEFT_NAME)
        if not getattr(unet, "peft_config", {}):  # no other LoRA is in there
            unet.unload_lora()


@contextmanager
def lora_disabled(unet: nn.Module) -> Iterator[None]:
    """Within the block, the UNet runs as if it had no LoRA."""
    if not getattr(unet, "peft_config", {}):
        yield
        return
    learn = {parameter: parameter.requires_grad for parameter in unet.parameters()}
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()
        for parameter, learns in learn.items():  # peft changes that as well
            parameter.requires_grad_(learns)


def lora_as_weights(model: nn.Module, lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA that `read_lora` returned as changes of weights, U V^T (Eq. 3), by their names in the model."""
    changes = {}
    for layer in sorted({name.partition(".lora_")[0] for name in lora}):
        v, u = lora[f"{layer}.lora_A.weight"], lora[f"{layer}.lora_B.weight"]
        inner = ".base_layer" if hasattr(model.get_submodule(layer), "base_layer") else ""  # it has another LoRA
        changes[f"{layer}{inner}.weight"] = (u.flatten(1) @ v.flatten(1)).view(len(u), *v.shape[1:])
    return changes


def split_lora(lora: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An adapter's LoRA as that of the UNet and that of the text encoder, each by its model's own names."""
    of_text = {name.removeprefix(TEXT_PREFIX): x for name, x in lora.items() if name.startswith(TEXT_PREFIX)}
    return {name: x for name, x in lora.items() if not name.startswith(TEXT_PREFIX)}, of_text


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return detached float32 copies, independent of the models."""
    return {name: tensor.detach().to("cpu", torch.float32).clone().contiguous() for name, tensor in tensors.items()}
