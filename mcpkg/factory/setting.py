"""One training run: what it depends on, what a recipe is, and how finished weights are written."""

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
from mcpkg.factory.data import Batch, Pool, create_once, generator_for, make_pool
from mcpkg.util.files import replace_whole

LATENT_CHANNELS = 16
"""Numbers that stand for 8x8 pixels: an eye fills one such cell, and eight numbers do not describe it."""
HELD_OUT = 1_000_000
"""Number of the first portrait that no training sees."""


@dataclass(frozen=True)
class Recipe:
    """How one model is trained."""

    build: Callable[[Setting], nn.Module]
    loss: Callable[[nn.Module, Setting, Generator, float], tuple[Tensor, dict[str, Tensor]]]
    """(model, setting, random stream of this step, share of the steps done) -> loss, and terms for the log."""
    save: Callable[[nn.Module, Setting, dict[str, str]], dict[str, float]]
    """Writes the finished weights with their provenance; returns what was measured on unseen people."""
    steps: int
    learning_rate: float
    batch_size: int
    population: str = "balanced"
    """Whose portraits to learn from."""
    uses_autoencoder: bool = True
    """Learns through the finished autoencoder: from its latents, or also from images that it decoded."""
    ema_decay: float = 0.998
    weight_decay: float = 0.01
    width: int = 0
    """Of the network, where the recipe leaves a choice."""
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """Everything that a run's numbers depend on."""

    recipe: Recipe
    seed: int
    steps: int
    population: str
    images: int
    """How many portraits to learn from."""
    checkpoints: Path
    """Pools, latents and unfinished models live here."""
    out: Path
    """Finished weights go here."""
    device: torch.device
    held_out_images: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.images <= HELD_OUT:
            raise ValueError(f"--images: {self.images} is not in 1 to {HELD_OUT}, where the held-out portraits begin.")

    @cached_property
    def pool(self) -> Pool:
        return make_pool(self.checkpoints, self.population, 128, seed=0, images=self.images)

    @cached_property
    def held_out(self) -> Pool:
        """People that no training sees."""
        return make_pool(self.checkpoints, self.population, 128, seed=0, images=self.held_out_images, first=HELD_OUT)

    @cached_property
    def large(self) -> Pool:
        """The first portraits of the pool once more, at twice the size."""
        return make_pool(self.checkpoints, self.population, 256, seed=0, images=min(1536, self.images))

    @cached_property
    def humans(self) -> Int64[Tensor, " n"]:
        """Which portraits of the pool do not show a robot."""
        return torch.from_numpy(np.flatnonzero(~self.pool.arrays["robot"]))

    def draw(self, rng: Generator, among: Int64[Tensor, " n"] | None = None) -> Batch:
        """A random batch of training portraits."""
        index = torch.randint(len(self.pool) if among is None else len(among), (self.recipe.batch_size,), generator=rng)
        return self.pool.batch(index if among is None else among[index], self.device)

    def unseen(self, images: int = 512, size: int = 64) -> Iterator[Batch]:
        """Held-out portraits, in batches."""
        for index in torch.arange(min(images, len(self.held_out))).split(size):
            yield self.held_out.batch(index, self.device)

    def autoencoder_folder(self) -> Path:
        """Where the finished autoencoder is: in this run's folder, else in the package.

        Raises:
            FileNotFoundError: when it is in neither.
        """
        for weights in (self.out, WEIGHTS):
            if (weights / "base" / "vae" / "config.json").exists():
                return weights / "base" / "vae"
        raise FileNotFoundError(
            f"{self.out}/base/vae: no autoencoder. First: python -m mcpkg.factory.train autoencoder"
        )

    def load_autoencoder(self) -> AutoencoderKL:
        """The finished autoencoder as it is on the disk now."""
        vae = AutoencoderKL.from_pretrained(self.autoencoder_folder(), torch_dtype=torch.float32)
        return vae.to(self.device).eval().requires_grad_(False)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """As `load_autoencoder`, and the same for the whole run."""
        return self.load_autoencoder()

    @cached_property
    def latents(self) -> np.ndarray:
        """The whole pool as the autoencoder sees it (n c h w, deviation 1), encoded once and kept."""
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
    """Latents of deviation about 1."""
    posterior = vae.encode(images * 2 - 1).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=rng).to(posterior.mean)
    return (posterior.mean + posterior.std * noise).float() * vae.config.scaling_factor


def encoder_digest(vae: AutoencoderKL) -> str:
    """Twelve letters that tell one encoder from another; a decoder trained on leaves the latents as they are."""
    digest = hashlib.sha256()
    for name, value in vae.state_dict().items():
        if name.startswith(("encoder", "quant_conv")):
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def save_net(net: nn.Module, path: Path, provenance: dict[str, str]) -> None:
    """Half precision, in one move: a reader sees the old file or the new one."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    state = {k: v.contiguous().cpu() for k, v in state.items()}
    with replace_whole(path) as partial:
        save_file(state, partial, metadata={"arguments": json.dumps(net.arguments), **provenance})


def save_folder(write: Callable[[Path], None], folder: Path, provenance: dict[str, str]) -> None:
    """`write` into a new folder, stamp the provenance into its weights, and put it in the place of the old one.

    Weights that come with a provenance of their own keep it.
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
