"""What personalisation learned, apart from the models: applied for a while, saved, loaded."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.model_patching import add_placeholders_to, plain_first_half, temporarily_patched, writable_copies
from mcpkg.method.config import Method, from_dict, to_dict
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import load_lora
from mcpkg.method.placeholders import Placeholder
from mcpkg.method.prompts import TEMPLATES
from mcpkg.util.errors import notify
from mcpkg.util.files import read_json, write_json
from mcpkg.util.folders import replace_together
from mcpkg.util.safetensors_io import read_weights, write_weights

SUMMARY_FILE, WEIGHTS_FILE = "adapter.json", "weight_deltas.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""
EMBEDDING_FILES = {"source": "source_embeds.safetensors", "reference": "reference_embeds.safetensors"}
"""By role; one token a file, for diffusers reads no more from one."""


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
    backend: str = ""
    """Name of the backend it was trained on; empty if unknown."""

    @property
    def prompt(self) -> str:
        """The composed prompt, the one to generate with."""
        return TEMPLATES["composed"][0].format(**{role: p.token for role, p in self.placeholders.items()})

    @contextmanager
    def applied(self, backend: Backend, lora_scale: float = 1.0, plain_guidance: bool = False) -> Iterator[Backend]:
        """Put the learned parameters into the backend's models; restore everything on exit.

        Args:
            backend: the one that the adapter was trained on.
            lora_scale: strength of the LoRA and weight changes; 0 leaves the learned placeholders only.
            plain_guidance: the UNet runs as it was before on the first half of each batch, see `plain_first_half`. The
                text encoder stays as trained.

        Raises:
            ValueError: the adapter was trained on another model.
        """
        self.check_fit(backend)
        if self.backend not in ("", backend.name):
            notify(f"the adapter was trained on {self.backend}, and draws on {backend.name} now: expect less of it.")
        with temporarily_patched(backend):
            pipeline = backend.pipeline
            rows = pipeline.text_encoder.get_input_embeddings()
            ids, originals = add_placeholders_to(backend, self.placeholders, torch.Generator()), {}
            with torch.no_grad():
                for token, vectors in self.embeddings.items():
                    rows.weight[ids[token]] = vectors.to(rows.weight)
            for part in ("unet", "text_encoder"):
                model, start = getattr(pipeline, part), f"{part}."
                deltas = {name.removeprefix(start): d for name, d in self.deltas.items() if name.startswith(start)}
                originals |= {name: model.get_parameter(name) for name in deltas if part == "unet"}
                parameters = writable_copies(model, deltas)
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter += lora_scale * deltas[name].to(parameter)
            if self.lora:
                load_lora(pipeline.unet, self.lora, self.method.lora_rank, lora_scale)
            with plain_first_half(pipeline.unet, originals) if plain_guidance else nullcontext():
                yield backend

    def check_fit(self, backend: Backend) -> None:
        """Raise unless every learned tensor has its place in the backend's models.

        Raises:
            ValueError: names the first that has not.
        """
        pipeline = backend.pipeline
        embedding = pipeline.text_encoder.get_input_embeddings()
        weights = {
            f"{part}.{name}": weight for part in ("unet", "text_encoder")
            for name, weight in getattr(pipeline, part).named_parameters()
        }  # fmt: skip
        fits = {
            f"the placeholder {token}": rows.shape[1] == embedding.embedding_dim
            for token, rows in self.embeddings.items()
        }
        for name, tensor in self.lora.items():
            layer, _, factor = name.partition(".lora_")
            weight = weights.get(f"unet.{layer}.weight", weights.get(f"unet.{layer}.base_layer.weight"))
            side = 1 if factor.startswith("A") else 0  # V takes what the layer takes, U gives what it gives
            fits[layer] = fits.get(layer, True) and weight is not None and tensor.shape[side] == weight.shape[side]
        for name, delta in self.deltas.items():
            fits[name] = name in weights and delta.shape == weights[name].shape
        misfit = next((what for what, fit in fits.items() if not fit), None)
        if misfit is not None:
            trained_on = f"It was trained on {self.backend!r}. " if self.backend else ""
            raise ValueError(
                f"the adapter does not fit the model {backend.name!r}: {misfit} has another size there, or no place. "
                f"{trained_on}Use the model that it was trained on."
            )

    def save(self, folder: str | Path) -> Path:
        """Write the adapter; after an error the folder is as it was, and `adapter.json` comes last.

        Plain diffusers reads it: `pipeline.load_lora_weights(folder)`, and for each of EMBEDDING_FILES
        `pipeline.load_textual_inversion(folder, weight_name=...)`.

        Raises:
            OSError: the files cannot be written.
        """
        folder = Path(folder)
        tokens = {role: placeholder.token for role, placeholder in self.placeholders.items()}
        tensors = {EMBEDDING_FILES[role]: {token: self.embeddings[token]} for role, token in tokens.items()}
        if self.lora:
            tensors[LORA_FILE] = {f"unet.{name}": tensor for name, tensor in self.lora.items()}
        if self.deltas:
            tensors[WEIGHTS_FILE] = self.deltas
        summary = {
            "method": to_dict(self.method),
            "seed": self.seed,
            "backend": self.backend,
            "prompt": self.prompt,
            "placeholders": {role: asdict(placeholder) for role, placeholder in self.placeholders.items()},
            "files": list(tensors),
            "record": self.record,
        }
        files = (LORA_FILE, WEIGHTS_FILE, *EMBEDDING_FILES.values())
        with replace_together(folder, last=SUMMARY_FILE, instead_of=files) as staged:
            for name, named in tensors.items():
                write_weights(named, staged / name, {"format": "pt"})
            write_json(summary, staged / SUMMARY_FILE)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Adapter":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no adapter, or lacks one of its files.
            ValueError: a file is damaged, a pickle, or of another version; the message names it.
        """
        folder = Path(folder)
        path = folder / SUMMARY_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no {SUMMARY_FILE} there. Give the folder that an adapter was saved to.")
        summary = read_json(path)
        try:
            learned = {
                "method": from_dict(summary["method"]),
                "seed": summary["seed"],
                "placeholders": {role: Placeholder(**values) for role, values in summary["placeholders"].items()},
                "record": summary["record"],
                "backend": summary["backend"],
            }
            files, tokens = summary["files"], {placeholder.token for placeholder in learned["placeholders"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: of another version of mcpkg, or damaged ({error}). Train again.") from None
        tensors = {name: read_weights(folder / name) for name in files}
        embeddings = {token: t for name in EMBEDDING_FILES.values() for token, t in tensors.get(name, {}).items()}
        if embeddings.keys() != tokens:
            raise ValueError(
                f"{folder}: holds the placeholders {sorted(embeddings)}, not {sorted(tokens)}. Train again."
            )
        lora = {name.removeprefix("unet."): tensor for name, tensor in tensors.get(LORA_FILE, {}).items()}
        if any(".lora_A." not in name and ".lora_B." not in name for name in lora):
            raise ValueError(f"{folder / LORA_FILE}: names its layers as an older mcpkg did. Train again.")
        return cls(
            **learned,
            embeddings=embeddings,
            lora=lora,
            deltas=tensors.get(WEIGHTS_FILE, {}),
        )
