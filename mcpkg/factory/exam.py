"""Unseen portraits and prompts, and what the base model makes of them: what the report's measurements share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from mcpkg.backends import load_backend
from mcpkg.factory.data import wear_out
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.interfaces import Backend, Faces, parse_in_batches
from mcpkg.world.attributes import Looks, People, sample_nuisance
from mcpkg.world.captions import Caption, write_captions
from mcpkg.world.population import BALANCED, UNSEEN, WEB, Population
from mcpkg.world.render import Renders, render_portraits

STEPS = 25
BATCH = 16


@dataclass(frozen=True)
class Drawn:
    """Rendered portraits with everything that is known about them."""

    people: People
    looks: Looks
    renders: Renders


@dataclass(frozen=True)
class Answers:
    """What the base model made of one prompt each."""

    people: People
    looks: Looks
    captions: list[Caption]
    images: Float[Tensor, "b 3 h w"]
    faces: Faces
    heat: Float[Tensor, "b words k k"]
    """Attention of each word, mean over heads, layers of the finest grid and timesteps; 0 where there is no word."""


def draw_portraits(population: Population, n: int, seed: int, per_person: int = 1, size_px: int = 128) -> Drawn:
    """Render `n` people in `per_person` looks each."""
    generator = Generator().manual_seed(UNSEEN + seed)
    people = population.people(n, generator).repeat(per_person)
    looks = population.looks(people, generator)
    return Drawn(people, looks, render_portraits(people, looks, sample_nuisance(len(people), generator), size=size_px))


class Exam:
    """The backend under test and the images that several measurements share."""

    def __init__(self, backend: Backend, prompts: int = 256):
        self.backend, self.prompts = backend, prompts

    @cached_property
    def balanced(self) -> Backend:
        """The same models around the base that learned from a population without bias."""
        return load_backend("mini-balanced")

    @cached_property
    def renders(self) -> Drawn:
        return draw_portraits(BALANCED, 256, seed=0, size_px=self.backend.image_size_px)

    @cached_property
    def answers(self) -> Answers:
        """Prompts as the training captions are written, with nothing left out, about looks drawn from `WEB`."""
        generator = Generator().manual_seed(UNSEEN + 1)
        people = WEB.people(self.prompts, generator)
        looks = WEB.looks(people, generator)
        captions = write_captions(people, looks, generator, dropout=0.0)
        parts = [generate_with_maps(self.backend, captions[i : i + BATCH], i) for i in range(0, len(captions), BATCH)]
        images = torch.cat([images for images, _ in parts])
        words = max(len(caption.words) for caption in captions)
        heat = torch.cat([F.pad(maps, (0, 0, 0, 0, 0, words - maps.shape[1])) for _, maps in parts])
        return Answers(people, looks, captions, images, parse_in_batches(self.backend, images), heat)


@torch.no_grad()
def generate_with_maps(
    backend: Backend, captions: list[Caption], seed: int
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b words k k"]]:
    """One image for each caption and the cross-attention map of each of its words."""
    tokenizer, size = backend.pipeline.tokenizer, backend.attention_size
    ids = tokenizer([c.text for c in captions], padding="max_length", return_tensors="pt").input_ids
    words = max(len(caption.words) for caption in captions)
    spoken = torch.tensor([[k < len(caption.words) for k in range(words)] for caption in captions])
    position = F.one_hot(torch.arange(words) + 1, ids.shape[1]).bool()  # every word is one token, after the start token
    tokens = {str(k): spoken[:, k, None] & position[k] for k in range(words)}
    with capture_attention(backend.pipeline.unet, tokens, min_size=size, max_size=size, keep="mean") as maps:
        images = generate(backend, [caption.text for caption in captions], seed)
    heat = torch.zeros(len(captions), words, size, size)
    for k in range(words):
        heat[spoken[:, k], k] = maps.heatmap(str(k)).float().cpu()
    return images, heat


@torch.no_grad()
def generate(backend: Backend, prompts: list[str], seed: int) -> Float[Tensor, "b 3 h w"]:
    """The images of these prompts, drawn as the library draws them."""
    return backend.sampler()(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=backend.default_guidance,
        generator=Generator().manual_seed(UNSEEN + seed),
        output_type="pt",
    ).images.float()  # fmt: skip


def degrade_portraits(sharp: Float[Tensor, "b 3 H W"], seed: int) -> Float[Tensor, "b 3 h w"]:
    """Half the size, then the light damage that the restorer is trained against."""
    return wear_out(sharp, Generator().manual_seed(UNSEEN + seed))
