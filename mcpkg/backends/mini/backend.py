"""The built-in model of rendered portraits: loads its weights and gives methods settings that suit them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import diffusers
import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from mcpkg.backends.mini.nets import FaceParserNet, IdentityEmbedder, RestorerNet, StyleReaderNet, count_faces
from mcpkg.method.config import LossWeights, Method, Phase, Refocusing
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.world.attributes import PARTS, sample_nuisance
from mcpkg.world.population import BALANCED
from mcpkg.world.render import render_portraits

WEIGHTS = Path(__file__).parent / "weights"
IMAGE_SIZE_PX = 128
STRANGERS_SEED = 8_500_000  # of people on whom no model was trained
JUDGES = ("identity_train", "identity_score", "parser", "style_reader", "restorer")

STEPS = 370
"""Optimiser steps of every method, over all its phases."""
PLACEHOLDER_STEPS = 150
"""Of `STEPS`, those of a first phase in which only placeholders learn: they are cheap, and most of the style is learned
in them."""
LEARNING_RATES = {"lora": 4e-3, "cross_attention_kv": 3e-3, "unet": 1e-3, "text_encoder": 1e-3}
"""Higher than the paper's, because the model is small and the steps are few. The baselines' are the best of those tried
on one pair, by identity_scaled + style: keys and values 1.5e-3, 3e-3, 6e-3; all weights 4e-4, 1e-3."""
LORA_LAYERS = "all"
"""Cross-attention alone, six layers of few channels, draws the right skin and merges the eyes: identity_scaled 0.51 and
style 0.85 for 0.80 and 0.95 (`python -m benchmarks.pairs --pairs amara:kimono --methods magicapture --out runs/cross
--overrides '{"lora_layers": "cross_attention"}'`, and without overrides)."""
EMBEDDING_LEARNING_RATES = {"placeholders only": 3e-2, "with weights": 1e-2}
"""Placeholders only: the best of 1e-2, 3e-2 and 8e-2 for Textual Inversion, found in the same way."""
VECTORS = 4
"""Per placeholder: each word of this model's vocabulary names one thing, such as hair, garment or background; a style
has all of them."""
IDENTITY_WEIGHT = 0.05
"""With a higher weight, training finds patterns that satisfy the embedder and are no faces."""
REFOCUSING_WEIGHT = 0.25
"""Of the loss on the fraction of attention inside the mask, `attention_losses.attention_fraction`. Less attention to
[V1] everywhere also lowers Eq. 8, and this model does so in part: leakage 0.27 and mean attention 0.04 on the face,
where the fraction gives 0.10 and 0.22 and no refocusing 0.66 and 0.14
(`python -m benchmarks.pairs --pairs bruno:noir_suit --out runs/eq8
--overrides '{"refocusing": {"weight": 2.5, "form": "mask"}}'`, and without overrides)."""
COMPOSED_SOURCE = 0.6
"""Each token of this text encoder carries information about all tokens before it, so that the tokens after [V1] draw
the face as much as [V1] itself; in the composed prompt these are the style's. Without source images under composed
prompts, the face is lost there."""


def load_mini(device: str = "cpu", weights: Path = WEIGHTS, population: str = "web") -> Backend:
    """Load the mini model.

    Args:
        population: whose portraits it was trained on, "web" or "balanced"; the face models and scores are the same.

    Raises:
        FileNotFoundError: weights are missing; the message names the commands that train them.
    """
    missing = missing_weights(weights, population)
    if missing:
        raise FileNotFoundError(f"{weights}: no weights. Train them: {'; '.join(missing)}")
    with _quiet():
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            weights / base_folder(population), local_files_only=True,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).to(device, torch.float32)  # fmt: skip
    return Backend(
        name="mini" if population == "web" else f"mini-{population}",
        pipeline=pipeline,
        image_size_px=IMAGE_SIZE_PX,
        face_parser=_Parser(FaceParserNet.load(weights / "parser.safetensors").to(device)),
        identity_trainer=_Embedder(IdentityEmbedder.load(weights / "identity_train.safetensors").to(device)),
        identity_scorer=_Embedder(IdentityEmbedder.load(weights / "identity_score.safetensors").to(device)),
        style_reader=StyleReaderNet.load(weights / "style_reader.safetensors").to(device),
        restorer=_Restorer(RestorerNet.load(weights / "restorer.safetensors").to(device)),
        strangers=draw_strangers,
        default_guidance=4.0,
        attention_size=16,
        tune=tune,
    )


def missing_weights(weights: Path = WEIGHTS, population: str = "web") -> dict[str, Path]:
    """Weights that `load_mini` would miss: command that trains them, in the order of training -> file."""
    files = {"autoencoder": weights / "base" / "vae" / "diffusion_pytorch_model.safetensors"}
    files |= {name: weights / f"{name}.safetensors" for name in JUDGES}
    which = "base" if population == "web" else f"base --population {population}"
    files[which] = weights / base_folder(population) / "model_index.json"
    return {f"python -m mcpkg.factory.train {name}": file for name, file in files.items() if not file.is_file()}


def base_folder(population: str) -> str:
    """Folder of a population's diffusion model, within the weights."""
    return "base" if population == "web" else f"base_{population}"


def tune(method: Method) -> Method:
    """The method with settings that suit a small model: fewer steps, higher learning rates, more vectors, LoRA on more
    layers, other loss weights and another form of refocusing."""
    first = method.phases[0]
    placeholder_steps = PLACEHOLDER_STEPS if len(method.phases) > 1 and first.trains == ("embeddings",) else 0
    rest = sum(phase.steps for phase in method.phases) - (first.steps if placeholder_steps else 0)

    def suit(phase: Phase) -> Phase:
        rates = [LEARNING_RATES[kind] for kind in phase.trains if kind in LEARNING_RATES]
        return replace(
            phase,
            steps=placeholder_steps
            if phase is first and placeholder_steps
            else round((STEPS - placeholder_steps) * phase.steps / rest),
            learning_rate=min(rates, default=phase.learning_rate),
            embedding_learning_rate=EMBEDDING_LEARNING_RATES["with weights" if rates else "placeholders only"],
            weights=suit_weights(phase.weights),
            refocusing=suit_refocusing(phase.refocusing),
            max_timestep=1.0,  # the first steps of drawing decide the colours of a background
        )

    def suit_weights(weights: LossWeights) -> LossWeights:
        return replace(
            weights,
            source=2 * weights.source,
            composed=2 * weights.composed,  # the prompt that portraits are drawn with
            identity=min(weights.identity, IDENTITY_WEIGHT),
        )

    def suit_refocusing(refocusing: Refocusing) -> Refocusing:
        return replace(refocusing, weight=min(refocusing.weight, REFOCUSING_WEIGHT), form="fraction", scale="max")

    composes = any("composed" in phase.tasks for phase in method.phases)
    return replace(
        method,
        phases=tuple(suit(phase) for phase in method.phases),
        lora_rank=16,
        lora_layers=LORA_LAYERS,
        vectors=VECTORS,
        composed_source=COMPOSED_SOURCE if composes else 0.0,
        weighting="velocity",
        samples_per_task=2,
        accumulation_steps=1,
        identity_every=2,
        identity_warmup=0.3,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for a load of half a second, and no advice on image processors that are not used here."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    with_bars = [log for log in logs if log.is_progress_bar_enabled()]
    for log in logs:
        log.set_verbosity_error()
    for log in with_bars:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        for log in with_bars:
            log.enable_progress_bar()


@cache
def draw_strangers(n: int) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 5 2"]]:
    """Portraits of n strangers, on whom no model was trained, with their landmarks."""
    generator = torch.Generator().manual_seed(STRANGERS_SEED)
    people = BALANCED.people(n, generator)
    renders = render_portraits(people, BALANCED.looks(people, generator), sample_nuisance(n, generator), IMAGE_SIZE_PX)
    return renders.image, renders.landmarks


@dataclass(frozen=True)
class _Parser:
    net: FaceParserNet

    @torch.no_grad()
    def parse(self, images: Float[Tensor, "b 3 h w"]) -> Faces:
        logits, landmarks = self.net(images)
        count = count_faces(logits)
        parts = logits.softmax(dim=1)  # b p h w
        return Faces(count > 0, count, parts[:, PARTS.index("face"), None], parts, landmarks)


@dataclass(frozen=True)
class _Embedder:
    net: IdentityEmbedder

    def embed(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b d"]:
        return self.net(images, landmarks)


@dataclass(frozen=True)
class _Restorer:
    net: RestorerNet

    @torch.no_grad()
    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 2*h 2*w"]:
        return self.net(images).clamp(0, 1)
