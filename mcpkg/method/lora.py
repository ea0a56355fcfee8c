"""LoRA, W' = W + U V^T (Eq. 3), through peft."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LORA_TARGETS = {
    "cross_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "all": (
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
        "conv1", "conv2", "conv_shortcut",
    ),
}  # fmt: skip
"""`Method.lora_layers` -> suffixes of the layers' names; Eq. 3 adapts the projections of cross-attention."""


PEFT_NAME = "mcpkg"


def add_lora(
    unet: nn.Module, rank: int, layers: str = "cross_attention", generator: torch.Generator | None = None
) -> dict[str, nn.Parameter]:
    """Add U V^T (Eq. 3) to the layers in `LORA_TARGETS`, V drawn from the generator, U zero; return U and V."""
    parameters = _wrap(unet, rank, LORA_TARGETS[layers])
    for name, parameter in parameters.items():
        if generator is not None and "lora_A" in name:  # V, which is applied to the layer's input
            bound = parameter[0].numel() ** -0.5
            noise = torch.rand(parameter.shape, generator=generator, device=generator.device)
            parameter.data.copy_((2 * noise - 1) * bound)
    return parameters


def _wrap(unet: nn.Module, rank: int, targets: Iterable[str]) -> dict[str, nn.Parameter]:
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):  # peft draws from torch's global generator, which must not advance
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), PEFT_NAME)
    parameters = {name: parameter for name, parameter in unet.named_parameters() if f".{PEFT_NAME}." in name}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()  # peft uses the type of the layer's own weight
    return parameters


def lora_shapes(unet: nn.Module, rank: int, layers: str = "cross_attention") -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that `read_lora` returns after `add_lora`, which is not called."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if not f".{name}".endswith(tuple(f".{target}" for target in LORA_TARGETS[layers])):
            continue
        weight = getattr(module, "base_layer", module).weight  # another LoRA may be around the layer
        shapes[f"{name}.lora_A.weight"] = (rank, *weight.shape[1:])
        shapes[f"{name}.lora_B.weight"] = (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
    return shapes


def read_lora(unet: nn.Module) -> dict[str, Tensor]:
    """Return the LoRA that `add_lora` added, in the adapter's format."""
    from peft import get_peft_model_state_dict

    return on_cpu(get_peft_model_state_dict(unet, adapter_name=PEFT_NAME))


def load_lora(unet: nn.Module, lora: dict[str, Tensor], rank: int, scale: float) -> None:
    """Add a LoRA that `read_lora` returned to the layers that it names, at strength `scale`."""
    from peft import set_peft_model_state_dict

    _wrap(unet, rank, sorted({name.partition(".lora_")[0] for name in lora}))
    set_peft_model_state_dict(unet, lora, adapter_name=PEFT_NAME)
    unet.set_adapters(PEFT_NAME, scale)


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return detached float32 copies, independent of the models."""
    return {name: tensor.detach().to("cpu", torch.float32).clone().contiguous() for name, tensor in tensors.items()}
