"""Estimate skin tone and presentation of generated faces, and render people that differ in one attribute only.

"Tone" and "presentation" are parameters of the renderer, and a reading is a network's estimate of them. Neither says
anything about the identity of a real person.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from mcpkg.course.one_step import estimate_x0
from mcpkg.method.diffusion import training_target
from mcpkg.method.interfaces import Backend, parse_in_batches
from mcpkg.method.masks import to_latent_mask
from mcpkg.method.reconstruction import masked_reconstruction
from mcpkg.world.attributes import (
    ATTRIBUTES,
    COLUMN,
    FACE,
    IDENTITY,
    MONK_TONES,
    Looks,
    People,
    code,
    sample_nuisance,
    skin_to_tone,
)
from mcpkg.world.captions import write_captions
from mcpkg.world.population import BALANCED, UNSEEN
from mcpkg.world.render import Renders, render_portraits

HUMANS = replace(BALANCED, robots=0.0)
_SKIN = IDENTITY.index("skin")
_DEVIATION = 3**-0.5  # standard deviation of a uniform parameter in [-1, 1]; the scorer predicts in this unit


@dataclass(frozen=True)
class Readings:
    """The identity scorer's estimates for each face."""

    tone: Float[Tensor, " b"]
    """Monk tone, about 1 to 10."""
    feminine: Bool[Tensor, " b"]
    """Read as feminine-presenting, which in the rendered world means lashes, lip colour and no beard."""


@torch.no_grad()
def read_faces(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Readings:
    """Estimate tone and presentation of the face in each image, with the identity scorer of a built-in backend.

    Note:
        The scorer was trained on renders of `BALANCED`: all tones equally often, and garments independent of
        presentation.
    """
    net, landmarks = backend.identity_scorer.net, parse_in_batches(backend, images).landmarks
    pairs = zip(images.split(64), landmarks.split(64), strict=True)
    traits = torch.cat([net.traits(some, at) for some, at in pairs]).cpu()
    return Readings(skin_to_tone(traits[:, _SKIN] * _DEVIATION), traits[:, -1] > 0)


@torch.no_grad()
def read_attributes(
    backend: Backend, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]
) -> Int64[Tensor, "b a"]:
    """Predict the style attributes of each image with the style reader, in the columns of `Looks.codes`.

    Args:
        keep_mask: 1 where the style reader may see the image.
    """
    logits = backend.style_reader(images, keep_mask)
    return torch.stack([logits[attribute].argmax(dim=1) for attribute in ATTRIBUTES], dim=1)


@dataclass(frozen=True)
class CaptionedRenders:
    """Rendered portraits with their true attributes and full captions."""

    people: People
    looks: Looks
    renders: Renders
    captions: list[str]
    rows_each: int = 1
    """Number of consecutive rows that show the same person."""

    def __len__(self) -> int:
        return len(self.captions)


def render_people(n: int, seed: int, feminine: float = 0.5, **look: str) -> CaptionedRenders:
    """Render `n` people of all tones, in random looks and with random nuisance parameters.

    Args:
        feminine: fraction of feminine-presenting people.
        look: attributes that all have, such as `garment="suit"`.
    """
    generator = Generator().manual_seed(UNSEEN + seed)
    people = replace(HUMANS, feminine=feminine).people(n, generator)
    return _render(people, _with_values(BALANCED.looks(people, generator), look), generator)


def render_in_every_tone(n: int, seed: int) -> CaptionedRenders:
    """Render `n` people, ten rows each, one for each tone; a person's ten pictures differ in nothing else.

    The treatment is plain: sepia and noir would hide the tone.
    """
    generator = Generator().manual_seed(UNSEEN + seed)
    people = HUMANS.people(n, generator)
    looks = _with_values(BALANCED.looks(people, generator), {"treatment": "plain"})
    return _render(people, looks, generator, MONK_TONES)


def _with_values(looks: Looks, values: dict[str, str]) -> Looks:
    """Return the looks with some attributes set to the same value in every row."""
    codes = looks.codes.clone()
    for attribute, value in values.items():
        codes[:, COLUMN[attribute]] = code(attribute, value)
    return Looks(codes)


def _render(people: People, looks: Looks, generator: Generator, tones: int = 1) -> CaptionedRenders:
    """Draw nuisance parameters and captions, and render each person in `tones` tones."""
    nuisance = sample_nuisance(len(people), generator).repeat(tones)
    captions = [caption.text for caption in write_captions(people, looks, generator, dropout=0.0) for _ in range(tones)]
    people, looks = people.repeat(tones), looks.repeat(tones)
    if tones > 1:
        shape = people.shape.clone()
        shape[:, _SKIN] = torch.linspace(-1, 1, tones).repeat(len(people) // tones)
        people = replace(people, shape=shape)
    return CaptionedRenders(people, looks, render_portraits(people, looks, nuisance), captions, tones)


@torch.no_grad()
def estimate_faces(
    backend: Backend, rendered: CaptionedRenders, timestep: int, seed: int = 0, batch_size: int = 40
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Measure how well the model predicts these faces: add noise up to one timestep, and estimate x0 in one step.

    Returns:
        The noise error inside the face under the picture's caption (the loss of Eq. 4), and the tone that is read from
        the estimate of x0.

    Note:
        Pictures of one person in all tones get the same noise, so that they differ in nothing but the tone.
    """
    scheduler, net, renders = backend.pipeline.scheduler, backend.identity_scorer.net, rendered.renders
    generator = Generator().manual_seed(UNSEEN + seed)
    errors, tones = [], []
    for rows in torch.arange(len(rendered)).split(batch_size // rendered.rows_each * rendered.rows_each):
        latents = backend.encode(renders.image[rows])
        people = (len(rows) // rendered.rows_each, *latents.shape[1:])
        noise = torch.randn(people, generator=generator).repeat_interleave(rendered.rows_each, dim=0).to(latents)
        step = estimate_x0(backend, latents, noise, [rendered.captions[i] for i in rows], timestep)
        truth = training_target(latents, noise, torch.full((len(rows),), timestep), scheduler)
        mask = to_latent_mask(renders.parts[rows, FACE, None], tuple(latents.shape[-2:])).to(latents)
        errors.append(masked_reconstruction(step.noise_pred, truth, mask))
        landmarks = renders.landmarks[rows].to(latents)
        tones.append(skin_to_tone(net.traits(step.images.clamp(0, 1), landmarks)[:, _SKIN] * _DEVIATION))
    return torch.cat(errors).cpu(), torch.cat(tones).cpu()
