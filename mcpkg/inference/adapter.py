"""What personalisation learned, apart from the models: applied for a while, saved, loaded."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.inference.adapter_files import (
    EMBEDDING_FILES,
    FORMAT,
    LORA_FILE,
    SUMMARY_FILE,
    WEIGHTS_FILE,
    read_summary,
    read_tensors,
)
from mcpkg.inference.model_patching import (
    add_placeholders_to,
    plain_first_half,
    temporarily_patched,
    whole_weights,
    writable_copies,
)
from mcpkg.method.config import Method, to_dict
from mcpkg.method.interfaces import Backend
from mcpkg.method.lora import (
    LORA_TARGETS,
    TEXT_PREFIX,
    TEXT_TARGETS,
    load_lora,
    lora_as_weights,
    lora_shapes,
    split_lora,
)
from mcpkg.method.placeholders import Placeholder
from mcpkg.method.templates import TEMPLATE_SETS
from mcpkg.util.errors import notify
from mcpkg.util.files import file_sha256, write_json
from mcpkg.util.folders import replace_together
from mcpkg.util.safetensors_io import write_weights
from mcpkg.util.schema import sealed


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
    """LoRA as peft names it, that of the text encoder after `lora.TEXT_PREFIX`; alpha equals the rank."""
    deltas: dict[str, Tensor] = field(default_factory=dict)
    """Changes of whole weights, by "unet." or "text_encoder." and their name."""
    record: dict[str, int | float] = field(default_factory=dict)
    """What happened in training: seconds, images without a face, ..."""
    backend: str = ""
    """Name of the backend it was trained on; empty if unknown."""

    @property
    def prompt(self) -> str:
        """The composed prompt, the one to generate with."""
        template = TEMPLATE_SETS[self.method.templates]["composed"][0]
        return template.format(**{role: p.token for role, p in self.placeholders.items()})

    @contextmanager
    def applied(
        self,
        backend: Backend,
        lora_scale: float = 1.0,
        plain_guidance: bool = False,
        word_norm: float | None = None,
        text_lora_scale: float | None = None,
    ) -> Iterator[Backend]:
        """Put the learned parameters into the backend's models; restore everything on exit.

        The LoRA is added to the weights, so that the model costs what it did before. One that acts at placeholders only
        (`Method.lora_tokens`) stays beside them, and needs `set_lora_tokens` before the UNet runs; `generate_portraits`
        calls it.

        Args:
            backend: the one that the adapter was trained on.
            lora_scale: strength of the LoRA and weight changes; 0 leaves the learned placeholders only.
            plain_guidance: the UNet runs as it was before on the first half of each batch, see `plain_first_half`. The
                text encoder stays as trained.
            word_norm: norm of the placeholders' embedding vectors, in medians of the vocabulary's; None as learned.
            text_lora_scale: strength of the text encoder's LoRA; None for `lora_scale`.

        Raises:
            ValueError: the adapter was trained on another model.
        """
        self.check_fit(backend)
        if self.backend not in ("", backend.name):
            notify(f"the adapter was trained on {self.backend}, and draws on {backend.name} now: expect less of it.")
        with temporarily_patched(backend):
            pipeline = backend.pipeline
            rows = pipeline.text_encoder.get_input_embeddings()
            learned = self.embeddings
            if word_norm is not None:
                norm = word_norm * rows.weight.norm(dim=1).median().item()  # of the vocabulary, still alone in there
                learned = {token: norm * functional.normalize(vectors, dim=1) for token, vectors in learned.items()}
            ids, originals = add_placeholders_to(backend, self.placeholders, torch.Generator()), {}
            with torch.no_grad():
                for token, vectors in learned.items():
                    rows.weight[ids[token]] = vectors.to(rows.weight)
            of_unet, of_text = split_lora(self.lora)
            for part in ("unet", "text_encoder"):
                model, start = getattr(pipeline, part), f"{part}."
                lora = of_text if part == "text_encoder" else of_unet if self.method.lora_tokens == "all" else {}
                strength = lora_scale if part == "unet" or text_lora_scale is None else text_lora_scale
                deltas = {name.removeprefix(start): d for name, d in self.deltas.items() if name.startswith(start)}
                changes = {name: lora_scale * delta for name, delta in deltas.items()}
                for name, change in lora_as_weights(model, lora).items():
                    changes[name] = changes.get(name, 0) + strength * change
                originals |= {name: model.get_parameter(name) for name in changes if part == "unet"}
                for name, parameter in writable_copies(model, changes).items():
                    changed = parameter.data.float() + changes[name].to(parameter.device)
                    parameter.data.copy_(changed)  # rounded once, if the weights are not in fp32
            if of_unet and self.method.lora_tokens != "all":  # no weight can tell tokens apart
                load_lora(pipeline.unet, of_unet, self.method.lora_rank, lora_scale, tokens=self.method.lora_tokens)
            with plain_first_half(pipeline.unet, originals) if plain_guidance else nullcontext():
                yield backend

    def check_fit(self, backend: Backend) -> None:
        """Raise unless the learned tensors are exactly those that the method learns on the backend's models.

        An adapter without LoRA, or without changed weights, is taken as one that has not begun to learn them.

        Raises:
            ValueError: names the first tensor that has no place there, or another size, or that is missing.
        """
        pipeline = backend.pipeline
        width = pipeline.text_encoder.get_input_embeddings().embedding_dim
        kinds = {kind for phase in self.method.phases for kind in phase.trains}
        here: dict[str, tuple[int, ...]] = {}
        here |= {f"the placeholder {p.token}": (p.vectors, width) for p in self.placeholders.values()}
        learned = (
            {f"the placeholder {token}": rows for token, rows in self.embeddings.items()} | self.lora | self.deltas
        )
        if self.lora:
            rank = self.method.lora_rank
            here |= lora_shapes(pipeline.unet, rank, LORA_TARGETS[self.method.lora_layers])
            of_text = lora_shapes(pipeline.text_encoder, rank, TEXT_TARGETS) if self.method.text_lora else {}
            here |= {f"{TEXT_PREFIX}{name}": shape for name, shape in of_text.items()}
        if self.deltas:
            weights = whole_weights(backend, kinds)
            here |= {name: tuple(weight.shape) for of_kind in weights.values() for name, weight in of_kind.items()}
        misfit = next((name for name, x in learned.items() if here.get(name) != tuple(x.shape)), None)
        lacking = next((name for name in here if name not in learned), None)
        trained_on = f"It was trained on {self.backend!r}. " if self.backend else ""
        problem = f"{misfit} has another size there, or no place" if misfit else f"it lacks {lacking}"
        if misfit or lacking:
            raise ValueError(
                f"the adapter does not fit the model {backend.name!r}: {problem}. "
                f"{trained_on}Use the model that it was trained on."
            )

    def save(self, folder: str | Path) -> Path:
        """Write the adapter; after an error the folder is as it was, and `adapter.json` comes last.

        Plain diffusers reads it: `pipeline.load_lora_weights(folder)`, and for each of EMBEDDING_FILES
        `pipeline.load_textual_inversion(folder, weight_name=...)`. It does not know `Method.lora_tokens`, which is in
        `adapter.json`: a LoRA that acts at placeholders only would act at all tokens there.

        Raises:
            OSError: the files cannot be written.
        """
        folder = Path(folder)
        tokens = {role: placeholder.token for role, placeholder in self.placeholders.items()}
        tensors = {EMBEDDING_FILES[role]: {token: self.embeddings[token]} for role, token in tokens.items()}
        if self.lora:
            of_unet, of_text = split_lora(self.lora)
            tensors[LORA_FILE] = {f"unet.{name}": tensor for name, tensor in of_unet.items()}
            tensors[LORA_FILE] |= {f"{TEXT_PREFIX}{name}": tensor for name, tensor in of_text.items()}
        if self.deltas:
            tensors[WEIGHTS_FILE] = self.deltas
        summary = {
            "format": FORMAT,
            "method": to_dict(self.method),
            "seed": self.seed,
            "backend": self.backend,
            "prompt": self.prompt,
            "placeholders": {role: asdict(placeholder) for role, placeholder in self.placeholders.items()},
            "record": self.record,
        }
        files = (LORA_FILE, WEIGHTS_FILE, *EMBEDDING_FILES.values())
        with replace_together(folder, last=SUMMARY_FILE, instead_of=files) as staged:
            for name, named in tensors.items():
                write_weights(named, staged / name, {"format": "pt"})
            summary["files"] = {name: file_sha256(staged / name) for name in tensors}
            write_json(sealed(summary), staged / SUMMARY_FILE)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Adapter":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no adapter, or lacks one of its files.
            ValueError: a file is damaged, incomplete, a pickle, or of another version; the message names it.
        """
        folder = Path(folder)
        if not (folder / SUMMARY_FILE).is_file():
            raise FileNotFoundError(f"{folder}: no {SUMMARY_FILE} there. Give the folder that an adapter was saved to.")
        summary = read_summary(folder / SUMMARY_FILE)
        tensors = read_tensors(folder, summary)
        return cls(
            method=summary.method,
            seed=summary.seed,
            placeholders={str(role): placeholder for role, placeholder in summary.placeholders.items()},
            record=summary.record,
            backend=summary.backend,
            embeddings={token: t for name in EMBEDDING_FILES.values() for token, t in tensors[name].items()},
            lora={name.removeprefix("unet."): tensor for name, tensor in tensors.get(LORA_FILE, {}).items()},
            deltas=tensors.get(WEIGHTS_FILE, {}),
        )
