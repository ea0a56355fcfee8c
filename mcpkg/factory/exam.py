"""The data of the exam of the built-in models: unseen portraits, unseen prompts and the images generated for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from mcpkg.backends import load_backend
from mcpkg.factory.data import degrade_to_half_size
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.interfaces import Backend, Faces, parse_in_batches
from mcpkg.world.attributes import Looks, People, sample_nuisance
from mcpkg.world.captions import Caption, write_captions
from mcpkg.world.population import BALANCED, UNSEEN, WEB, Population
from mcpkg.world.render import Renders, render_portraits

STEPS = 25
BATCH = 16


@dataclass(frozen=True)
class Bar:
    """A measured number and the bar that it has to reach; without a bar it is only reported."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True)
class RenderedSample:
    """Rendered portraits with their ground truth."""

    people: People
    looks: Looks
    renders: Renders


@dataclass(frozen=True)
class Answers:
    """Images that the base model generated for unseen prompts, and the attention maps of each word."""

    people: People
    looks: Looks
    captions: list[Caption]
    images: Float[Tensor, "b 3 h w"]
    faces: Faces
    attention: Float[Tensor, "b words k k"]
    """Attention map of each word, mean over heads, layers of the finest grid and timesteps; 0 after the last word."""


def render_sample(population: Population, n: int, seed: int, per_person: int = 1, size_px: int = 128) -> RenderedSample:
    """Draw `n` people from a population and render them in `per_person` looks each; seeds are unseen by training."""
    generator = Generator().manual_seed(UNSEEN + seed)
    people = population.people(n, generator).repeat(per_person)
    looks = population.looks(people, generator)
    nuisance = sample_nuisance(len(people), generator)
    return RenderedSample(people, looks, render_portraits(people, looks, nuisance, size=size_px))


class Exam:
    """The backend under test and the images that several measurements use, each made once on first use."""

    def __init__(self, backend: Backend, prompts: int = 256):
        self.backend, self.prompts = backend, prompts

    @cached_property
    def balanced(self) -> Backend:
        """The backend whose base model was trained on the balanced population; its other models are the same."""
        return load_backend("mini-balanced")

    @cached_property
    def sample(self) -> RenderedSample:
        """Renders of 256 people from `BALANCED`."""
        return render_sample(BALANCED, 256, seed=0, size_px=self.backend.image_size_px)

    @cached_property
    def answers(self) -> Answers:
        """Images for full captions, written like those of the training, of people and looks drawn from `WEB`."""
        generator = Generator().manual_seed(UNSEEN + 1)
        people = WEB.people(self.prompts, generator)
        looks = WEB.looks(people, generator)
        captions = write_captions(people, looks, generator, dropout=0.0)
        parts = [generate_with_maps(self.backend, captions[i : i + BATCH], i) for i in range(0, len(captions), BATCH)]
        images = torch.cat([images for images, _ in parts])
        words = max(len(caption.words) for caption in captions)
        attention = torch.cat([F.pad(maps, (0, 0, 0, 0, 0, words - maps.shape[1])) for _, maps in parts])
        return Answers(people, looks, captions, images, parse_in_batches(self.backend, images), attention)


@torch.no_grad()
def generate_with_maps(
    backend: Backend, captions: list[Caption], seed: int
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b words k k"]]:
    """Generate one image for each caption, and record the cross-attention map of each of its words."""
    tokenizer, size = backend.pipeline.tokenizer, backend.attention_size
    ids = tokenizer([c.text for c in captions], padding="max_length", return_tensors="pt").input_ids
    words = max(len(caption.words) for caption in captions)
    present = torch.tensor([[k < len(caption.words) for k in range(words)] for caption in captions])
    position = F.one_hot(torch.arange(words) + 1, ids.shape[1]).bool()  # every word is one token, after the start token
    tokens = {str(k): present[:, k, None] & position[k] for k in range(words)}
    with capture_attention(backend.pipeline.unet, tokens, min_size=size, max_size=size, keep="mean") as maps:
        images = generate(backend, [caption.text for caption in captions], seed)
    attention = torch.zeros(len(captions), words, size, size)
    for k in range(words):
        attention[present[:, k], k] = maps.heatmap(str(k)).float().cpu()
    return images, attention


@torch.no_grad()
def generate(backend: Backend, prompts: list[str], seed: int) -> Float[Tensor, "b 3 h w"]:
    """Generate one image for each prompt with the backend's sampler and default guidance."""
    return backend.sampler()(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=backend.default_guidance,
        generator=Generator().manual_seed(UNSEEN + seed),
        output_type="pt",
    ).images.float()  # fmt: skip


def degrade_portraits(sharp: Float[Tensor, "b 3 H W"], seed: int) -> Float[Tensor, "b 3 h w"]:
    """Halve the size, then apply the light damage that the restorer is trained on."""
    return degrade_to_half_size(sharp, Generator().manual_seed(UNSEEN + seed))
