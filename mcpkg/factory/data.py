"""What the small models learn from: portraits rendered once into a folder, and damage to make them robust to.

Every number is a function of a seed: a pool of its own, a batch of (seed, step).
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
"""Portraits rendered at a time; part of what a pool's seed means, so never change it alone."""
LIGHT_DAMAGE = {"strength": 0.5, "colours": False}
"""Options of `degrade` for what is to be restored, and not only to be recognised."""


@dataclass(frozen=True)
class Batch:
    """Portraits with everything that is known about them."""

    images: Float[Tensor, "b 3 h w"]
    """In [0, 1]."""
    parts: Int64[Tensor, "b h w"]
    """Index into `PARTS` of the part that covers most of the pixel."""
    landmarks: Float[Tensor, "b 5 2"]
    """x, y in [0, 1] of the frame."""
    people: People
    looks: Looks
    identity: Int64[Tensor, " b"]
    """Who: the same number, the same person."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Pool:
    """A folder of rendered portraits, `LOOKS_PER_PERSON` of each person."""

    folder: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in self.folder.glob("*.npy")}

    def __len__(self) -> int:
        return len(self.arrays["images"])

    def batch(self, index: Int64[Tensor, " b"], device: str | torch.device = "cpu") -> Batch:
        """The portraits at `index`."""

        def rows(name: str) -> Tensor:
            return torch.from_numpy(self.arrays[name][index.numpy()]).to(device)

        return Batch(
            images=rows("images").float() / 255,
            parts=rows("parts").long(),
            landmarks=rows("landmarks"),
            people=People(rows("shape"), rows("feminine"), rows("robot")),
            looks=Looks(rows("codes").long()),
            identity=index.to(device) // LOOKS_PER_PERSON,
        )


def make_pool(folder: Path, population: str, size: int, seed: int, images: int, first: int = 0) -> Pool:
    """The pool of these settings below `folder`, rendered by two processes unless it is there already.

    Args:
        size: side of the images in pixels; two pools that differ only in it show the same portraits.
        images: how many, rounded up to a multiple of 64.
        first: number of the first portrait; pools that do not overlap share no person.
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
    """A path of this process alone to write to; it becomes `home`, unless another process made the same by then."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f"{home.stem}.", suffix=".partial") as scratch:
        partial = Path(scratch) / home.name
        yield partial
        try:
            os.replace(partial, home)
        except OSError:  # a folder that is there is not replaced
            if not home.exists():
                raise


def _fill(jobs: list[tuple], name: str) -> None:
    if not jobs:
        return
    # Spawned, not forked: a fork would inherit torch's threads in an unknown state.
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
    """A random stream that depends on nothing else, so that a resumed run draws what it would have drawn."""
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(mixed) % 2**63)


def part_shares(parts: Int64[Tensor, "b h w"], size: int) -> Float[Tensor, "b p {size} {size}"]:
    """How much of each cell of a coarse grid each part covers; sums to 1 over parts."""
    return F.adaptive_avg_pool2d(F.one_hot(parts, len(PARTS)).movedim(-1, 1).float(), size)


def degrade(
    images: Float[Tensor, "b c h w"], rng: Generator, strength: float = 1.0, colours: bool = True
) -> Float[Tensor, "b c h w"]:
    """Blur, lower resolution, noise, coarse colours and, if `colours`, exposure, each on a random part of the batch.

    What a vision model must see through to judge generated images, and not only clean renders.
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

    def blotches(x: Tensor) -> Tensor:
        """Smooth colour errors, as of a small autoencoder or a half-denoised latent."""
        coarse_noise = torch.randn(len(x), x.shape[1], size[0] // 8, size[1] // 8, generator=rng) * 0.05 * strength
        return x + F.interpolate(coarse_noise.to(x), size=size, mode="bicubic", align_corners=False)

    def expose(x: Tensor) -> Tensor:
        gain = 1 + 0.3 * strength * (torch.rand(len(x), 1, 1, 1, generator=rng) - 0.5)
        offset = 0.15 * strength * (torch.rand(len(x), 1, 1, 1, generator=rng) - 0.5)
        return x * gain.to(x) + offset.to(x)

    for damage, share in (
        (expose, 0.5 * colours),
        (blur, 0.3),
        (shrink, 0.3),
        (blotches, 0.3),
        (coarse, 0.2),
        (noise, 0.4),
    ):
        images = _on_some(damage, share, images, rng)
    return images.clamp(0, 1)


def wear_out(sharp: Float[Tensor, "b 3 H W"], rng: Generator) -> Float[Tensor, "b 3 h w"]:
    """Half the size, then light damage: what a restorer is measured on."""
    small = F.avg_pool2d(sharp, 2).split(4)  # some damage is drawn once a batch: small batches see all of it
    return torch.cat([degrade(images, rng, **LIGHT_DAMAGE) for images in small])


def _on_some(damage: Callable[[Tensor], Tensor], share: float, images: Tensor, rng: Generator) -> Tensor:
    chosen = (torch.rand(len(images), generator=rng) < share).nonzero()[:, 0].to(images.device)
    return images.index_copy(0, chosen, damage(images[chosen])) if len(chosen) else images


def _uniform(rng: Generator) -> float:
    return float(torch.rand(1, generator=rng))
