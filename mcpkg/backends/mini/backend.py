"""The built-in model of rendered portraits: loads its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.backends.mini.nets import FaceParserNet, IdentityEmbedder, RestorerNet, StyleReaderNet, count_faces
from mcpkg.backends.mini.tuning import tune
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.world.attributes import PARTS, sample_nuisance
from mcpkg.world.population import BALANCED
from mcpkg.world.render import render_portraits

WEIGHTS = Path(__file__).parent / "weights"
IMAGE_SIZE_PX = 128
STRANGERS_SEED = 8_500_000  # of people on whom no model was trained
JUDGES = ("identity_train", "identity_score", "parser", "style_reader", "restorer")


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

    import diffusers  # a second and a half, for which `missing_weights` has no use

    with _quiet():
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            weights / base_folder(population), local_files_only=True,
            vae=diffusers.AutoencoderKL.from_pretrained(weights / "base" / "vae", local_files_only=True),
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
        threads=1,  # a second is worth 10 to 20 %, and costs 25 times as much beside another busy process
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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for a load of half a second, and no advice on image processors that are not used here."""
    import diffusers
    import transformers

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
