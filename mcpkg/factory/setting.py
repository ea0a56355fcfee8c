"""One training run: its recipe and settings, and writing of finished weights with their provenance."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from tqdm import tqdm

from mcpkg.backends.mini.backend import WEIGHTS
from mcpkg.factory.data import Pool, RenderBatch, create_once, generator_for, make_pool
from mcpkg.util.safetensors_io import write_weights

LATENT_CHANNELS = 16
"""Channels per latent cell of 8x8 pixels: an eye fills one such cell, and eight channels are too few for it."""
HELD_OUT = 1_000_000
"""Number of the first portrait that is never used for training."""


@dataclass(frozen=True)
class Recipe:
    """How one model is trained."""

    build: Callable[[Setting], nn.Module]
    loss: Callable[[nn.Module, Setting, Generator, float], tuple[Tensor, dict[str, Tensor]]]
    """(model, setting, generator of this step, fraction of the steps done) -> loss, and terms for the log."""
    save: Callable[[nn.Module, Setting, dict[str, str]], dict[str, float]]
    """Write the finished weights with their provenance; return measurements on unseen people."""
    steps: int
    learning_rate: float
    batch_size: int
    population: str = "balanced"
    """Name of the population of the training portraits."""
    uses_autoencoder: bool = True
    """Whether training needs the finished autoencoder, for its latents or for images that it decodes."""
    ema_decay: float = 0.998
    weight_decay: float = 0.01
    width: int = 0
    """Width of the network, if the recipe sets it."""
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """Everything that the numbers of a run depend on."""

    recipe: Recipe
    seed: int
    steps: int
    population: str
    images: int
    """Number of training portraits."""
    checkpoints: Path
    """Folder for pools, latents and unfinished models."""
    out: Path
    """Folder for finished weights."""
    device: torch.device
    held_out_images: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.images <= HELD_OUT:
            raise ValueError(f"--images: {self.images} is not in 1 to {HELD_OUT}, where the held-out portraits begin.")

    @cached_property
    def pool(self) -> Pool:
        """The training portraits."""
        return make_pool(self.checkpoints, self.population, 128, seed=0, images=self.images)

    @cached_property
    def held_out(self) -> Pool:
        """Portraits of people that are never used for training."""
        return make_pool(self.checkpoints, self.population, 128, seed=0, images=self.held_out_images, first=HELD_OUT)

    @cached_property
    def large(self) -> Pool:
        """The first portraits of the pool at twice the size."""
        return make_pool(self.checkpoints, self.population, 256, seed=0, images=min(1536, self.images))

    @cached_property
    def humans(self) -> Int64[Tensor, " n"]:
        """Indices of the portraits of the pool that do not show a robot."""
        return torch.from_numpy(np.flatnonzero(~self.pool.arrays["robot"]))

    def draw(self, rng: Generator, among: Int64[Tensor, " n"] | None = None) -> RenderBatch:
        """Draw a random batch of training portraits."""
        index = torch.randint(len(self.pool) if among is None else len(among), (self.recipe.batch_size,), generator=rng)
        return self.pool.batch(index if among is None else among[index], self.device)

    def unseen(self, images: int = 512, size: int = 64) -> Iterator[RenderBatch]:
        """Yield held-out portraits in batches."""
        for index in torch.arange(min(images, len(self.held_out))).split(size):
            yield self.held_out.batch(index, self.device)

    def autoencoder_folder(self) -> Path:
        """Return the folder of the finished autoencoder: in this run's folder, else in the package.

        Raises:
            FileNotFoundError: it is in neither.
        """
        for weights in (self.out, WEIGHTS):
            if (weights / "base" / "vae" / "config.json").exists():
                return weights / "base" / "vae"
        raise FileNotFoundError(
            f"{self.out}/base/vae: no autoencoder. First: python -m mcpkg.factory.train autoencoder"
        )

    def load_autoencoder(self) -> AutoencoderKL:
        """Load the finished autoencoder from disk."""
        vae = AutoencoderKL.from_pretrained(self.autoencoder_folder(), torch_dtype=torch.float32, local_files_only=True)
        return vae.to(self.device).eval().requires_grad_(False)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The finished autoencoder, loaded once per run."""
        return self.load_autoencoder()

    @cached_property
    def latents(self) -> np.ndarray:
        """Latents of the whole pool (n c h w, deviation 1), encoded once and saved."""
        vae, name = self.autoencoder, f"latents-{self.pool.folder.name}-{encoder_digest(self.autoencoder)}"
        home = self.checkpoints / f"{name}.npy"
        if not home.exists():
            rows = []
            for index in tqdm(torch.arange(len(self.pool)).split(64), desc=name, mininterval=5):
                batch, rng = self.pool.batch(index, self.device), generator_for(1, int(index[0]))
                rows.append(encode(vae, batch.images, rng).half().cpu().numpy())
            with create_once(home) as partial:
                np.save(partial, np.concatenate(rows), allow_pickle=False)
        return np.load(home, mmap_mode="r", allow_pickle=False)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"], rng: Generator) -> Float[Tensor, "b c h/8 w/8"]:
    """Draw latents of images from the encoder's posterior, scaled to a deviation of about 1."""
    posterior = vae.encode(images * 2 - 1).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=rng).to(posterior.mean)
    return (posterior.mean + posterior.std * noise).float() * vae.config.scaling_factor


def encoder_digest(vae: AutoencoderKL) -> str:
    """Return twelve letters that identify an encoder; further training of the decoder does not change them."""
    digest = hashlib.sha256()
    for name, value in vae.state_dict().items():
        if name.startswith(("encoder", "quant_conv")):
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; empty if it has none."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def save_net(net: nn.Module, path: Path, provenance: dict[str, str], measured: dict[str, float]) -> None:
    """Write weights in half precision with their provenance and measurements; the file appears whole or not at all."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    metadata = {"arguments": json.dumps(net.arguments), **provenance, "measured": json.dumps(measured)}
    write_weights({k: v.cpu() for k, v in state.items()}, path, metadata)


def save_folder(write: Callable[[Path], None], folder: Path, provenance: dict[str, str]) -> None:
    """Call `write` on a new folder, add the provenance to its weights' metadata, and replace `folder` by it.

    Weights that already have a provenance keep it.
    """
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for path in partial.rglob("*.safetensors"):
        if "recipe" not in read_metadata(path):
            save_file(load_file(path), path, metadata={"format": "pt", **provenance})
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
