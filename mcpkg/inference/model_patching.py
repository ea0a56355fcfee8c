"""Placeholders and weights put into a backend's models for a while; afterwards the models are restored exactly."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import PEFT_NAME
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
        if PEFT_NAME in getattr(pipeline.unet, "peft_config", {}):
            pipeline.unet.delete_adapters(PEFT_NAME)
            if not getattr(pipeline.unet, "peft_config", {}):  # no other LoRA is in there
                pipeline.unet.unload_lora()
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

    Args:
        originals: whole weights as they were, by name, where others stand in for them now. The LoRA is found.

    Raises:
        ValueError: in the UNet, a batch without halves.
    """
    from peft.tuners.lora import LoraLayer

    of_module: dict[str, dict[str, nn.Parameter]] = defaultdict(dict)
    for name, original in originals.items():
        path, _, leaf = name.rpartition(".")
        of_module[path][leaf] = original

    def plain(name: str, module: nn.Module) -> nn.Module | None:
        """The module as it was before training, if training changed it."""
        adapted = isinstance(module, LoraLayer) and PEFT_NAME in module.active_adapters
        if not adapted and name not in of_module:
            return None
        before = copy.copy(module.base_layer if adapted else module)
        before._parameters = before._parameters | of_module.get(name, {})
        return before

    def replace_first_half(before: nn.Module, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if len(output) % 2:
            raise ValueError(
                f"a batch of {len(output)} has no halves: give as many rows without the prompt as with it."
            )
        half = len(output) // 2
        return torch.cat((before.forward(args[0][:half], *args[1:]), output[half:]))  # forward: without hooks

    with ExitStack() as hooks:
        for name, module in unet.named_modules():
            if (before := plain(name, module)) is not None:
                hooks.callback(module.register_forward_hook(partial(replace_first_half, before)).remove)
        yield
