"""Placeholders and weights put into a backend's models for a while; afterwards the models are restored exactly."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import PEFT_NAME, remove_lora
from mcpkg.method.placeholders import Placeholder, add_placeholders

WHOLE_WEIGHTS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "unet": ("unet", lambda name: True),
    "cross_attention_kv": ("unet", lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name),
    "text_encoder": ("text_encoder", lambda name: "token_embedding" not in name),
}
"""Kind, as in config.TRAINABLE -> the model whose own weights it trains, and which of them by name."""


def whole_weights(backend: Backend, kinds: Iterable[str]) -> dict[str, dict[str, nn.Parameter]]:
    """Kind -> "unet." or "text_encoder." and the name -> the weight that is trained; other kinds are left out."""
    found = {}
    for kind in WHOLE_WEIGHTS:
        if kind in kinds:
            part, keep = WHOLE_WEIGHTS[kind]
            weights = getattr(backend.pipeline, part).named_parameters()
            found[kind] = {f"{part}.{name}": weight for name, weight in weights if keep(name)}
    return found


@contextmanager
def temporarily_patched(backend: Backend) -> Iterator[None]:
    """Within the block, placeholders, LoRA and `writable_copies` may be added; after it, the models are as before."""
    pipeline = backend.pipeline
    models = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    tokenizer, embedding = pipeline.tokenizer, pipeline.text_encoder.get_input_embeddings()
    sizes = embedding.num_embeddings, pipeline.text_encoder.config.vocab_size
    device = backend.device
    slots = [(module, name, parameter) for model in models for module in model.modules()
             for name, parameter in module._parameters.items() if parameter is not None]  # fmt: skip
    with_lora = (pipeline.unet, pipeline.text_encoder)
    tree = [(module, dict(module._modules)) for model in with_lora for module in model.modules()]
    with_peft = [getattr(model, "_hf_peft_config_loaded", False) for model in with_lora]
    trainable = [parameter.requires_grad for _, _, parameter in slots]
    training = [(module, module.training) for model in models for module in model.modules()]
    pipeline.tokenizer = copy.deepcopy(tokenizer)  # tokens cannot be removed from a tokenizer
    writable_copies(embedding, ["weight"])  # new rows are written into the matrix itself
    for model in models:
        model.requires_grad_(False).eval()
    try:
        yield
    finally:
        remove_lora(pipeline.unet)
        for module, children in tree:  # peft may have broken off halfway, before it took note of what it added
            module._modules.clear()
            module._modules.update(children)
        for model, loaded in zip(with_lora, with_peft, strict=True):
            model._hf_peft_config_loaded = loaded
        loras = getattr(pipeline.text_encoder, "peft_config", {})
        if loras.pop(PEFT_NAME, None) is not None and not loras:
            del pipeline.text_encoder.peft_config  # peft takes even an empty one for another LoRA
        pipeline.tokenizer = tokenizer
        embedding.num_embeddings, pipeline.text_encoder.config.vocab_size = sizes
        for (module, name, parameter), requires_grad in zip(slots, trainable, strict=True):
            parameter.data = parameter.data.to(device)  # where copies took its place, it may have waited elsewhere
            module._parameters[name] = parameter.requires_grad_(requires_grad)
        for module, mode in training:
            module.training = mode


def add_placeholders_to(
    backend: Backend, placeholders: dict[str, Placeholder], generator: torch.Generator
) -> dict[str, list[int]]:
    """Add the placeholders to the pipeline's vocabulary: token -> ids."""
    with torch.random.fork_rng(devices=[]):  # the new rows are drawn from torch's global state before they are set
        return add_placeholders(
            backend.pipeline.tokenizer, backend.pipeline.text_encoder, tuple(placeholders.values()), generator
        )


def writable_copies(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Replace the named parameters by copies that may be written; `temporarily_patched` puts the old ones back."""
    copies = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        copies[name] = module._parameters[leaf] = nn.Parameter(module._parameters[leaf].detach().clone(), False)
    return copies


@contextmanager
def plain_first_half(unet: nn.Module, originals: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Within the block, what was learned acts on the second half of each batch only: in guidance, on the prompt's.

    Training on a few pictures also changes what a model draws without a prompt, and guidance would lead away from that
    instead of from an average picture (Phunyaphibarn et al. 2025, arXiv 2503.20240).

    The halves go through two UNets, which share all weights that did not change: the given one, whose hooks see the
    second half, and one as it was before.

    Args:
        originals: whole weights as they were, by name, where others stand in for them now. The LoRA is found.

    Raises:
        ValueError: in the UNet, a batch without halves.
    """
    before = _as_before(unet, originals)
    first: tuple[list, dict] = [], {}

    def take_second_half(unet: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        nonlocal first
        rows = len(kwargs["sample"] if "sample" in kwargs else args[0])
        if rows % 2:
            raise ValueError(f"a batch of {rows} has no halves: give as many rows without the prompt as with it.")

        def half(value: Any, which: int) -> Any:
            return value.chunk(2)[which] if isinstance(value, Tensor) and value.shape[:1] == (rows,) else value

        first = [half(x, 0) for x in args], {name: half(x, 0) for name, x in kwargs.items()}
        return tuple(half(x, 1) for x in args), {name: half(x, 1) for name, x in kwargs.items()}

    def add_first_half(unet: nn.Module, args: tuple, output: Any) -> Any:
        joined = torch.cat((before(*first[0], **first[1])[0], output[0]))
        return (joined,) if isinstance(output, tuple) else type(output)(joined)

    with ExitStack() as hooks:
        hooks.callback(unet.register_forward_pre_hook(take_second_half, with_kwargs=True).remove)
        hooks.callback(unet.register_forward_hook(add_first_half).remove)
        yield


def _as_before(unet: nn.Module, originals: Mapping[str, nn.Parameter]) -> nn.Module:
    """A UNet without our LoRA and without hooks, with the original weights; every tensor is shared, none is copied."""
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    shared |= {id(unet.get_parameter(name)): original for name, original in originals.items()}
    hooks = [of for module in unet.modules() for of in (module._forward_hooks, module._forward_pre_hooks)]
    before = copy.deepcopy(unet, shared | {id(of): OrderedDict() for of in hooks})
    remove_lora(before)
    return before
