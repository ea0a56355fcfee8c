"""Read how a drawn face presents, and change one thing about a rendered person at a time.

"Tone" and "presentation" are parameters that the renderer was given, and a reading is a network's estimate of them.
Neither says anything about who a real person is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mcpkg.course.one_step import estimate_x0
from mcpkg.method.diffusion import training_target
from mcpkg.method.interfaces import Backend, parse_in_batches
from mcpkg.method.masks import to_latent_mask
from mcpkg.method.reconstruction import masked_reconstruction
from mcpkg.world.captions import write_captions
from mcpkg.world.render import Renders, render_portraits
from mcpkg.world.seeds import UNSEEN
from mcpkg.world.world import ATTRIBUTES, BALANCED, IDENTITY, PARTS, Looks, People, code, sample_nuisance

TONES = 10
"""Of the Monk scale, 1 (lightest) to 10."""
HUMANS = replace(BALANCED, robots=0.0)
_SKIN, _FACE = IDENTITY.index("skin"), PARTS.index("face")
_DEVIATION = 3**-0.5  # of a parameter in [-1, 1]; the scorer predicts them in standard deviations


@dataclass(frozen=True)
class Readings:
    """What the identity scorer makes of each face."""

    tone: Float[Tensor, " b"]
    """Monk tone, about 1 to 10."""
    feminine: Bool[Tensor, " b"]
    """Read as feminine-presenting, which in this world is lashes, lip colour and no beard."""


@torch.no_grad()
def read_faces(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Readings:
    """Read tone and presentation of the face in each image, by the scorer of a mini backend.

    Note:
        The scorer learned from renders of `BALANCED`: every tone equally often, every garment on everyone.
    """
    net, landmarks = backend.identity_scorer.net, parse_in_batches(backend, images).landmarks
    pairs = zip(images.split(64), landmarks.split(64), strict=True)
    traits = torch.cat([net.traits(some, at) for some, at in pairs]).cpu()
    return Readings(to_tone(traits[:, _SKIN] * _DEVIATION), traits[:, -1] > 0)


def to_tone(skin: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The identity parameter `skin`, -1 to 1, as a Monk tone, 1 to 10."""
    return 1 + (TONES - 1) * (skin + 1) / 2


@dataclass(frozen=True)
class Pictured:
    """Rendered portraits, what is true of them, and their full captions."""

    people: People
    looks: Looks
    renders: Renders
    captions: list[str]
    rows_each: int = 1
    """So many rows one after the other show one person."""

    def __len__(self) -> int:
        return len(self.captions)


def picture_people(n: int, seed: int, feminine: float = 0.5, **look: str) -> Pictured:
    """`n` people of every tone, in the shot and the look that they happen to have.

    Args:
        feminine: share of feminine-presenting people.
        look: attributes that all have, such as `garment="suit"`.
    """
    generator = Generator().manual_seed(UNSEEN + seed)
    people = replace(HUMANS, feminine=feminine).people(n, generator)
    return _picture(people, _fixed(BALANCED.looks(people, generator), look), generator)


def picture_in_every_tone(n: int, seed: int) -> Pictured:
    """`n` people, ten rows each, one for each tone; everything else about a person's ten pictures is the same.

    Colours are plain: sepia and noir would hide the tone.
    """
    generator = Generator().manual_seed(UNSEEN + seed)
    people = HUMANS.people(n, generator)
    looks = _fixed(BALANCED.looks(people, generator), {"treatment": "plain"})
    return _picture(people, looks, generator, TONES)


def _fixed(looks: Looks, look: dict[str, str]) -> Looks:
    codes = looks.codes.clone()
    for attribute, value in look.items():
        codes[:, list(ATTRIBUTES).index(attribute)] = code(attribute, value)
    return Looks(codes)


def _picture(people: People, looks: Looks, generator: Generator, tones: int = 1) -> Pictured:
    shots = sample_nuisance(len(people), generator).repeat(tones)
    captions = [caption.text for caption in write_captions(people, looks, generator, dropout=0.0) for _ in range(tones)]
    people, looks = people.repeat(tones), looks.repeat(tones)
    if tones > 1:
        shape = people.shape.clone()
        shape[:, _SKIN] = torch.linspace(-1, 1, tones).repeat(len(people) // tones)
        people = replace(people, shape=shape)
    return Pictured(people, looks, render_portraits(people, looks, shots), captions, tones)


@torch.no_grad()
def estimate_faces(
    backend: Backend, pictured: Pictured, timestep: int, seed: int = 0, batch_size: int = 40
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """How well the model knows these faces: each is noised to one timestep, and taken back in one step.

    Returns:
        Noise error inside the face under the picture's own caption (the loss of Eq. 4), and the tone that is read
        from the estimate x0.

    Note:
        Pictures of one person in every tone share their noise, so that nothing but the tone tells them apart.
    """
    scheduler, net, renders = backend.pipeline.scheduler, backend.identity_scorer.net, pictured.renders
    generator = Generator().manual_seed(UNSEEN + seed)
    errors, tones = [], []
    for rows in torch.arange(len(pictured)).split(batch_size // pictured.rows_each * pictured.rows_each):
        latents = backend.encode(renders.image[rows])
        people = (len(rows) // pictured.rows_each, *latents.shape[1:])
        noise = torch.randn(people, generator=generator).repeat_interleave(pictured.rows_each, dim=0).to(latents)
        step = estimate_x0(backend, latents, noise, [pictured.captions[i] for i in rows], timestep)
        truth = training_target(latents, noise, torch.full((len(rows),), timestep), scheduler)
        mask = to_latent_mask(renders.parts[rows, _FACE, None], tuple(latents.shape[-2:])).to(latents)
        errors.append(masked_reconstruction(step.noise_pred, truth, mask))
        landmarks = renders.landmarks[rows].to(latents)
        tones.append(to_tone(net.traits(step.images.clamp(0, 1), landmarks)[:, _SKIN] * _DEVIATION))
    return torch.cat(errors).cpu(), torch.cat(tones).cpu()
