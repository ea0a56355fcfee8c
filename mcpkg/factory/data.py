"""Training data of the built-in models: portraits rendered once into a folder, and image degradations.

All randomness comes from seeds: a pool's from its seed, a batch's from (seed, step).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from tqdm import tqdm

from mcpkg.world.attributes import PARTS, Looks, Nuisance, People, sample_nuisance
from mcpkg.world.population import POPULATIONS
from mcpkg.world.render import render_portraits

LOOKS_PER_PERSON = 4
_CHUNK = 64
"""Portraits rendered at a time; the pictures of a seed depend on it, so do not change it."""
LIGHT_DAMAGE = {"strength": 0.5, "colours": False}
"""Options of `degrade` for pictures to be restored, not only recognised."""


@dataclass(frozen=True)
class RenderBatch:
    """Rendered portraits with their ground truth."""

    images: Float[Tensor, "b 3 h w"]
    """In [0, 1]."""
    parts: Int64[Tensor, "b h w"]
    """Index into `PARTS` of the part that covers most of the pixel."""
    landmarks: Float[Tensor, "b 5 2"]
    """x, y in [0, 1] of the image."""
    people: People
    looks: Looks
    identity: Int64[Tensor, " b"]
    """Number of the person in the picture."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Pool:
    """A folder of rendered portraits, `LOOKS_PER_PERSON` of each person, read from disk on demand."""

    folder: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in self.folder.glob("*.npy")}

    def __len__(self) -> int:
        return len(self.arrays["images"])

    def batch(self, index: Int64[Tensor, " b"], device: str | torch.device = "cpu") -> RenderBatch:
        """Load the portraits at `index`."""

        def rows(name: str) -> Tensor:
            return torch.from_numpy(self.arrays[name][index.numpy()]).to(device)

        return RenderBatch(
            images=rows("images").float() / 255,
            parts=rows("parts").long(),
            landmarks=rows("landmarks"),
            people=People(rows("shape"), rows("feminine"), rows("robot")),
            looks=Looks(rows("codes").long()),
            identity=index.to(device) // LOOKS_PER_PERSON,
        )


def make_pool(folder: Path, population: str, size: int, seed: int, images: int, first: int = 0) -> Pool:
    """Return the pool with these settings below `folder`; render it in two processes if it does not exist.

    Args:
        size: side of the images in pixels; two pools that differ only in size show the same portraits.
        images: number of portraits, rounded up to a multiple of 64.
        first: number of the first portrait; pools that do not overlap have no person in common.
    """
    home = folder / f"pool-{population}-{size}-{seed}-{first}-{images}"
    if home.exists():
        return Pool(home)
    chunks = -(-images // _CHUNK)
    with create_once(home) as partial:
        partial.mkdir()
        for key, rows in _render_chunk(population, size, seed, first // _CHUNK).items():
            shape = (chunks * _CHUNK, *rows.shape[1:])
            array = np.lib.format.open_memmap(partial / f"{key}.npy", mode="w+", dtype=rows.dtype, shape=shape)
            array[:_CHUNK] = rows
            array.flush()
        _fill([(partial, population, size, seed, first // _CHUNK, chunk) for chunk in range(1, chunks)], home.name)
        (partial / "pool.json").write_text(json.dumps({"population": population, "size": size, "seed": seed}))
    return Pool(home)


@contextmanager
def create_once(home: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it is renamed to `home` unless another process has made `home` meanwhile."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f"{home.stem}.", suffix=".partial") as scratch:
        partial = Path(scratch) / home.name
        yield partial
        try:
            os.replace(partial, home)
        except OSError:  # an existing folder is not replaced
            if not home.exists():
                raise


def _fill(jobs: list[tuple], name: str) -> None:
    """Render chunks in two processes."""
    if not jobs:
        return
    # Spawned instead of forked: a fork would inherit torch's threads in an unknown state.
    with multiprocessing.get_context("spawn").Pool(2, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        for _ in tqdm(workers.imap_unordered(_fill_chunk, jobs), total=len(jobs), desc=name, mininterval=5):
            pass


def _fill_chunk(job: tuple) -> None:
    partial, population, size, seed, first, chunk = job
    for key, rows in _render_chunk(population, size, seed, first + chunk).items():
        array = np.lib.format.open_memmap(partial / f"{key}.npy", mode="r+")
        array[chunk * _CHUNK : (chunk + 1) * _CHUNK] = rows
        array.flush()


@torch.no_grad()
def _render_chunk(population: str, size: int, seed: int, chunk: int) -> dict[str, np.ndarray]:
    rng = generator_for(seed, chunk)
    people = POPULATIONS[population].people(_CHUNK // LOOKS_PER_PERSON, rng).repeat(LOOKS_PER_PERSON)
    looks = POPULATIONS[population].looks(people, rng)
    nuisance: Nuisance = sample_nuisance(_CHUNK, rng)
    renders = render_portraits(people, looks, nuisance, size)
    tensors = {
        "images": (renders.image * 255).round().byte(),
        "parts": renders.parts.argmax(dim=1).byte(),
        "landmarks": renders.landmarks.float(),
        "shape": people.shape,
        "feminine": people.feminine,
        "robot": people.robot,
        "codes": looks.codes.byte(),
    }
    return {key: tensor.numpy() for key, tensor in tensors.items()}


def generator_for(seed: int, step: int) -> Generator:
    """Return a generator that depends only on seed and step, so that a resumed run draws the same numbers."""
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(mixed) % 2**63)


def part_fractions(parts: Int64[Tensor, "b h w"], size: int) -> Float[Tensor, "b p {size} {size}"]:
    """Return the fraction of each cell of a coarse grid that each part covers; sums to 1 over parts."""
    return F.adaptive_avg_pool2d(F.one_hot(parts, len(PARTS)).movedim(-1, 1).float(), size)


def degrade(
    images: Float[Tensor, "b c h w"], rng: Generator, strength: float = 1.0, colours: bool = True
) -> Float[Tensor, "b c h w"]:
    """Apply blur, lower resolution, noise, coarse colours and, if `colours`, exposure, each to random rows.

    Vision models trained on degraded renders also work on generated images.
    """
    size = images.shape[-2:]

    def blur(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

    def shrink(x: Tensor) -> Tensor:
        factor = 1 + 2 * strength * _uniform(rng)
        small = F.interpolate(x, scale_factor=1 / factor, mode="area")
        return F.interpolate(small, size=size, mode="bicubic", align_corners=False)

    def coarse(x: Tensor) -> Tensor:
        levels = 10 + 40 * _uniform(rng)
        return x + ((x * levels).round() / levels - x).detach()

    def noise(x: Tensor) -> Tensor:
        level = 0.08 * strength * torch.rand(len(x), 1, 1, 1, generator=rng)
        return x + (level * torch.randn(x.shape, generator=rng)).to(x)

    def colour_errors(x: Tensor) -> Tensor:
        """Add smooth colour errors, like those of a small autoencoder or a partly denoised latent."""
        coarse_noise = torch.randn(len(x), x.shape[1], size[0] // 8, size[1] // 8, generator=rng) * 0.05 * strength
        return x + F.interpolate(coarse_noise.to(x), size=size, mode="bicubic", align_corners=False)

    def expose(x: Tensor) -> Tensor:
        gain = 1 + 0.3 * strength * (torch.rand(len(x), 1, 1, 1, generator=rng) - 0.5)
        offset = 0.15 * strength * (torch.rand(len(x), 1, 1, 1, generator=rng) - 0.5)
        return x * gain.to(x) + offset.to(x)

    for damage, probability in (
        (expose, 0.5 * colours),
        (blur, 0.3),
        (shrink, 0.3),
        (colour_errors, 0.3),
        (coarse, 0.2),
        (noise, 0.4),
    ):
        images = _apply_to_some(damage, probability, images, rng)
    return images.clamp(0, 1)


def degrade_to_half_size(sharp: Float[Tensor, "b 3 H W"], rng: Generator) -> Float[Tensor, "b 3 h w"]:
    """Halve the size, then apply light damage; restorers are measured on the result."""
    small = F.avg_pool2d(sharp, 2).split(4)  # some damage is drawn once per batch: use small batches
    return torch.cat([degrade(images, rng, **LIGHT_DAMAGE) for images in small])


def _apply_to_some(damage: Callable[[Tensor], Tensor], probability: float, images: Tensor, rng: Generator) -> Tensor:
    chosen = (torch.rand(len(images), generator=rng) < probability).nonzero()[:, 0].to(images.device)
    return images.index_copy(0, chosen, damage(images[chosen])) if len(chosen) else images


def _uniform(rng: Generator) -> float:
    return float(torch.rand(1, generator=rng))
