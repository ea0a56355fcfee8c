"""What personalisation learned, apart from the models: brought in for a while, saved, loaded."""

import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcpkg.backends.base import Backend
from mcpkg.config import Method, from_dict, to_dict
from mcpkg.prompts import Placeholder, add_placeholders

LORA_TARGETS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
"""The projections of cross-attention, the only layers that Eq. 3 adapts."""
LORA_FILE, WEIGHTS_FILE = "pytorch_lora_weights.safetensors", "weight_deltas.safetensors"
EMBEDDINGS_FILE, SUMMARY_FILE = "learned_embeds.safetensors", "adapter.json"
_PEFT_NAME = "mcpkg"


@dataclass(frozen=True)
class Adapter:
    """The learned parameters and how they came about."""

    method: Method
    seed: int
    placeholders: dict[str, Placeholder]
    """By role, "source" and "reference"."""
    embeddings: dict[str, Float[Tensor, "vectors d"]]
    """By placeholder token."""
    lora: dict[str, Tensor] = field(default_factory=dict)
    """UNet LoRA as peft names it; alpha equals the rank."""
    deltas: dict[str, Tensor] = field(default_factory=dict)
    """Changes of whole weights, by "unet." or "text_encoder." and their name."""
    record: dict[str, int | float] = field(default_factory=dict)
    """What happened in training: seconds, images without a face, ..."""

    @property
    def prompt(self) -> str:
        """The composed prompt, the one to generate with."""
        source, reference = (self.placeholders[role].token for role in ("source", "reference"))
        return f"a photo of a {source} person in the {reference} style"

    @contextmanager
    def applied(self, backend: Backend, lora_scale: float = 1.0) -> Iterator[Backend]:
        """Bring the learned parameters into the backend's models; put everything back on exit.

        Args:
            backend: the one that the adapter was trained on.
            lora_scale: strength of the LoRA and weight changes; 0 leaves the learned words only.
        """
        with borrowed(backend):
            pipeline = backend.pipeline
            rows = pipeline.text_encoder.get_input_embeddings()
            ids = add_words(backend, self.placeholders, torch.Generator())
            with torch.no_grad():
                for token, vectors in self.embeddings.items():
                    rows.weight[ids[token]] = vectors.to(rows.weight)
            for part in ("unet", "text_encoder"):
                model, start = getattr(pipeline, part), f"{part}."
                deltas = {name.removeprefix(start): delta for name, delta in self.deltas.items() if name.startswith(start)}
                parameters = own_copies(model, deltas)
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter += lora_scale * deltas[name].to(parameter)
            if self.lora:
                add_lora(pipeline.unet, self.method.lora_rank)
                _load_lora(pipeline.unet, self.lora)
                pipeline.unet.set_adapters(_PEFT_NAME, lora_scale)
            yield backend

    def save(self, folder: str | Path) -> Path:
        """Write the adapter; each file appears whole or not at all, `adapter.json` last.

        The LoRA file is what `pipeline.load_lora_weights(folder)` reads; of the embeddings, give
        each tensor with its key to `pipeline.load_textual_inversion(tensor, token=key)`.
        """
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
            partial = Path(partial)
            if self.lora:
                StableDiffusionPipeline.save_lora_weights(partial, convert_state_dict_to_diffusers(self.lora))
            if self.deltas:
                save_file(self.deltas, partial / WEIGHTS_FILE)
            save_file(self.embeddings, partial / EMBEDDINGS_FILE)
            summary = {
                "method": to_dict(self.method),
                "seed": self.seed,
                "prompt": self.prompt,
                "placeholders": {role: asdict(placeholder) for role, placeholder in self.placeholders.items()},
                "record": self.record,
            }
            (partial / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
            for name in (LORA_FILE, WEIGHTS_FILE, EMBEDDINGS_FILE, SUMMARY_FILE):
                if (partial / name).exists():
                    (partial / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)  # left by another method saved here before
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Adapter":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no adapter.
        """
        from diffusers.utils import convert_unet_state_dict_to_peft
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / SUMMARY_FILE).is_file():
            raise FileNotFoundError(f"{folder}: no {SUMMARY_FILE} there. Give the folder that an adapter was saved to.")
        summary = json.loads((folder / SUMMARY_FILE).read_text())

        def tensors(name: str) -> dict[str, Tensor]:
            return load_file(folder / name) if (folder / name).is_file() else {}

        lora = {name.removeprefix("unet."): tensor for name, tensor in tensors(LORA_FILE).items()}
        return cls(
            method=from_dict(summary["method"]),
            seed=summary["seed"],
            placeholders={role: Placeholder(**values) for role, values in summary["placeholders"].items()},
            embeddings=tensors(EMBEDDINGS_FILE),
            lora=convert_unet_state_dict_to_peft(lora) if lora else {},
            deltas=tensors(WEIGHTS_FILE),
            record=summary["record"],
        )


@contextmanager
def borrowed(backend: Backend) -> Iterator[None]:
    """Words, LoRA and `own_copies` brought in within the block are gone after it, also after an error."""
    pipeline = backend.pipeline
    models = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    tokenizer, embedding = pipeline.tokenizer, pipeline.text_encoder.get_input_embeddings()
    sizes = embedding.num_embeddings, pipeline.text_encoder.config.vocab_size
    slots = [(module, name, parameter) for model in models for module in model.modules()
             for name, parameter in module._parameters.items() if parameter is not None]  # fmt: skip
    trainable = [parameter.requires_grad for _, _, parameter in slots]
    training = [(module, module.training) for model in models for module in model.modules()]
    pipeline.tokenizer = copy.deepcopy(tokenizer)  # words cannot be taken out of a tokenizer again
    own_copies(embedding, ["weight"])  # new words are written into the matrix itself
    for model in models:
        model.requires_grad_(False).eval()
    try:
        yield
    finally:
        if _PEFT_NAME in getattr(pipeline.unet, "peft_config", {}):
            pipeline.unet.delete_adapters(_PEFT_NAME)
            if not getattr(pipeline.unet, "peft_config", {}):  # nobody else's LoRA is in there
                pipeline.unet.unload_lora()
        pipeline.tokenizer = tokenizer
        embedding.num_embeddings, pipeline.text_encoder.config.vocab_size = sizes
        for (module, name, parameter), requires_grad in zip(slots, trainable, strict=True):
            module._parameters[name] = parameter.requires_grad_(requires_grad)
        for module, mode in training:
            module.training = mode


def add_words(
    backend: Backend, placeholders: dict[str, Placeholder], generator: torch.Generator
) -> dict[str, list[int]]:
    """Add the placeholders to the pipeline's vocabulary: token -> ids."""
    with torch.random.fork_rng(devices=[]):  # the new rows are drawn from torch's global state before they are set
        return add_placeholders(
            backend.pipeline.tokenizer, backend.pipeline.text_encoder, tuple(placeholders.values()), generator
        )


def add_lora(unet: nn.Module, rank: int, generator: torch.Generator | None = None) -> dict[str, nn.Parameter]:
    """Put W' = W + U V^T on the cross-attention projections (Eq. 3), U drawn from the generator, V zero."""
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):  # peft draws from torch's global state; ours come from the generator
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS)), _PEFT_NAME)
    parameters = {name: parameter for name, parameter in unet.named_parameters() if f".{_PEFT_NAME}." in name}
    for name, parameter in parameters.items():
        if generator is not None and "lora_A" in name:
            bound = parameter.shape[1] ** -0.5
            noise = torch.rand(parameter.shape, generator=generator, device=generator.device)
            parameter.data.copy_((2 * noise - 1) * bound)
    return parameters


def read_lora(unet: nn.Module) -> dict[str, Tensor]:
    """The LoRA that `add_lora` put in, as the adapter keeps it."""
    from peft import get_peft_model_state_dict

    return on_cpu(get_peft_model_state_dict(unet, adapter_name=_PEFT_NAME))


def own_copies(model: nn.Module, names) -> dict[str, nn.Parameter]:
    """Replace the named parameters by copies that may be written, for `borrowed` to put the old ones back."""
    copies = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        copies[name] = module._parameters[leaf] = nn.Parameter(module._parameters[leaf].detach().clone(), False)
    return copies


def _load_lora(unet: nn.Module, lora: dict[str, Tensor]) -> None:
    from peft import set_peft_model_state_dict

    outcome = set_peft_model_state_dict(unet, lora, adapter_name=_PEFT_NAME)
    if outcome.unexpected_keys:
        raise ValueError(f"the adapter's LoRA does not fit this backend: it has no layer {outcome.unexpected_keys[0]}.")


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached float32 copies that outlive the models."""
    return {name: tensor.detach().to("cpu", torch.float32).clone().contiguous() for name, tensor in tensors.items()}
