"""What the small models can do, measured on portraits and prompts that no training run drew.

Each measurement takes an `Exam` and gives bars: a name, a number and what the number has to reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mcpkg.course.bias import read_attributes
from mcpkg.factory.exam import BATCH, STEPS, Exam, degrade_portraits, draw_portraits, generate
from mcpkg.factory.metrics import frechet_distance, iou, psnr, verification_tar
from mcpkg.method.interfaces import Backend, parse_in_batches
from mcpkg.method.masks import role_region
from mcpkg.world.attributes import ATTRIBUTES, PARTS, Looks, People, code, readable
from mcpkg.world.population import BALANCED, WEB

WORD_CLASSES: dict[str, tuple[str, ...]] = {
    "hair": ("hair",),
    "garment": ("garment",),
    "background": ("background",),
    "person": ("face", "hair", "ears", "neck", "garment"),
    "accessory": ("accessory",),
}
"""Kinds of words by the parts that they speak of; a word of other parts (say "bald") is in no class."""


@dataclass(frozen=True)
class Bar:
    """A measured number and the bar it has to clear; without a bar it is only reported."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


@torch.no_grad()
def measure_autoencoder(exam: Exam) -> Iterator[Bar]:
    renders, backend = exam.renders.renders, exam.backend
    decoded = torch.cat([backend.decode(backend.encode(x)).float() for x in renders.image.split(BATCH)]).clamp(0, 1)
    embed = backend.identity_scorer.embed
    cosines = (embed(renders.image, renders.landmarks) * embed(decoded, renders.landmarks)).sum(dim=1)
    person = ~exam.renders.people.robot
    yield Bar("autoencoder: PSNR, dB", psnr(decoded, renders.image).mean().item(), at_least=30.0)
    yield Bar("autoencoder: identity cosine, original to decoded", cosines[person].mean().item(), at_least=0.90)


@torch.no_grad()
def measure_style_reader(exam: Exam) -> Iterator[Bar]:
    test = exam.renders
    keep = 1 - test.renders.parts[:, PARTS.index("face"), None]
    right = read_attributes(exam.backend, test.renders.image, keep) == test.looks.codes
    for column, attribute in enumerate(ATTRIBUTES):
        shown = readable(test.looks)[:, column]
        yield Bar(f"style reader: {attribute}, accuracy", right[shown, column].float().mean().item(), at_least=0.98)


def asked(people: People, looks: Looks) -> Bool[Tensor, "b a"]:
    """Which attributes a full caption names: what can be read, but neither "none" nor the plain treatment."""
    names = readable(looks).clone()
    columns = list(ATTRIBUTES)
    names[:, columns.index("accessory")] &= looks.accessory != code("accessory", "none")
    names[:, columns.index("treatment")] &= looks.treatment != code("treatment", "plain")
    names[:, columns.index("hair")] &= ~people.robot
    names[:, columns.index("hair_colour")] &= ~people.robot
    return names


@torch.no_grad()
def measure_base(exam: Exam) -> Iterator[Bar]:
    answers, backend = exam.answers, exam.backend
    right = (
        read_attributes(backend, answers.images, role_region("reference", answers.faces.face_mask))
        == answers.looks.codes
    )
    wanted = asked(answers.people, answers.looks)
    for column, attribute in enumerate(ATTRIBUTES):
        hits = right[wanted[:, column], column].float()
        name = f"base: asked {attribute.replace('_', ' ')} is there (of {len(hits)})"
        yield Bar(name, hits.mean().item(), at_least=0.90)
    one_face = (answers.faces.count == 1).float().mean().item()
    yield Bar("base: exactly one face", one_face, at_least=0.98)
    yield Bar("base: identity cosine between images of one prompt", _sameness(exam), at_most=0.35)

    for who in ("woman", "man"):
        yield Bar(
            f"base: asked wedding dress is there, {who} (rare in the training data for men)", _dressed(backend, who)
        )

    n = len(answers.images)
    real, again = (draw_portraits(WEB, n, seed, size_px=backend.image_size_px).renders.image for seed in (2, 3))
    for name, features in (("style", _style_features), ("identity", _identity_features)):
        made, truth, other = (features(backend, images) for images in (answers.images, real, again))
        yield Bar(f"base: Frechet distance in {name} features, generated to renders", frechet_distance(made, truth))
        yield Bar(f"base: Frechet distance in {name} features, renders to renders", frechet_distance(other, truth))


@torch.no_grad()
def measure_balanced(exam: Exam) -> Iterator[Bar]:
    """The base that learned from `BALANCED`, asked what bias makes rare, and a sample of the other prompts."""
    backend = exam.balanced
    for who in ("woman", "man"):
        yield Bar(f"balanced base: asked wedding dress is there, {who}", _dressed(backend, who))
    answers = Exam(backend, min(64, exam.prompts)).answers
    right = (
        read_attributes(backend, answers.images, role_region("reference", answers.faces.face_mask))
        == answers.looks.codes
    )
    wanted = asked(answers.people, answers.looks)
    yield Bar(
        f"balanced base: asked attributes are there (of {int(wanted.sum())})", right[wanted].float().mean().item()
    )
    one_face = (answers.faces.count == 1).float().mean().item()
    yield Bar("balanced base: exactly one face", one_face, at_least=0.98)


@torch.no_grad()
def measure_attention(exam: Exam) -> Iterator[Bar]:
    answers = exam.answers
    size = answers.heat.shape[-1]
    cells = F.adaptive_avg_pool2d(answers.faces.parts.cpu(), size)  # b p k k
    rows: dict[str, list[Tensor]] = {name: [] for name in WORD_CLASSES}
    for i, caption in enumerate(answers.captions):
        for k, parts in enumerate(caption.parts):
            name = next((n for n, own in WORD_CLASSES.items() if own == tuple(PARTS[p] for p in parts)), None)
            if name is None:
                continue
            region = cells[i, list(parts)].sum(dim=0)
            if region.mean() > 0.01:  # else the part did not come out: that is a miss of the base, not of attention
                rows[name].append(attention_on_part(answers.heat[i, k], region))
    for name, measured in rows.items():
        share, area, coverage = torch.stack(measured).mean(dim=0).tolist() if measured else (float("nan"),) * 3
        held = name != "accessory"
        small = held and area < 0.3
        yield Bar(f"attention: {name} words, share inside their part", share, 0.6 if held else None)
        yield Bar(f"attention: {name} words, share of the part's area covered", coverage, 0.4 if held else None)
        yield Bar(f"attention: {name} words, share over area ({area:.2f})", share / area, 2.0 if small else None)


def attention_on_part(heat: Float[Tensor, "k k"], region: Float[Tensor, "k k"]) -> Float[Tensor, 3]:
    """How well one word's attention sits on its part.

    Args:
        heat: attention, >= 0.
        region: share of each cell that the part covers.

    Returns:
        Share of the attention inside the part; the part's share of the image; and the share of the part
        whose attention is above the map's mean, which a few bright pixels cannot raise.
    """
    share = (heat * region).sum() / heat.sum()
    covered = (region * (heat > heat.mean())).sum() / region.sum()
    return torch.stack([share, region.mean(), covered])


@torch.no_grad()
def measure_identity(exam: Exam) -> Iterator[Bar]:
    people = replace(BALANCED, robots=0.0)
    test = draw_portraits(people, 256, seed=4, per_person=4, size_px=exam.backend.image_size_px)
    labels = torch.arange(256).repeat_interleave(4)
    for role, embedder in (("train", exam.backend.identity_trainer), ("score", exam.backend.identity_scorer)):
        vectors = embedder.embed(test.renders.image, test.renders.landmarks)
        tar = verification_tar(vectors, labels)
        yield Bar(f"identity embedder ({role}): TAR at FAR 1e-3", tar, at_least=0.98)


@torch.no_grad()
def measure_parser(exam: Exam) -> Iterator[Bar]:
    renders = exam.renders.renders
    faces = parse_in_batches(exam.backend, renders.image)
    truth = renders.parts.argmax(dim=1)  # b h w
    seen = faces.parts.argmax(dim=1)
    face = PARTS.index("face")
    yield Bar("face parser: face IoU", iou(faces.face_mask[:, 0] > 0.5, truth == face).mean().item(), at_least=0.95)
    for part, name in enumerate(PARTS):
        shown = (truth == part).flatten(1).any(dim=1)
        if part != face:
            yield Bar(f"face parser: {name} IoU", iou(seen[shown] == part, truth[shown] == part).mean().item())
    offset_px = (faces.landmarks - renders.landmarks).norm(dim=-1).mean().item() * renders.image.shape[-1]
    yield Bar("face parser: landmark error, px", offset_px)


@torch.no_grad()
def measure_restorer(exam: Exam) -> Iterator[Bar]:
    size = exam.backend.image_size_px
    test = draw_portraits(replace(BALANCED, robots=0.0), 128, seed=5, size_px=2 * size)
    sharp = test.renders.image
    poor = degrade_portraits(sharp, seed=6)
    bicubic = F.interpolate(poor, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    restored = torch.cat([exam.backend.restorer.restore(x) for x in poor.split(BATCH)]).clamp(0, 1)
    gain = psnr(restored, sharp).mean() - psnr(bicubic, sharp).mean()
    embed = exam.backend.identity_scorer.embed
    own = embed(sharp, test.renders.landmarks)
    before, after = ((embed(x, test.renders.landmarks) * own).sum(dim=1).mean().item() for x in (bicubic, restored))
    yield Bar("restorer: PSNR above bicubic, dB", gain.item(), at_least=2.0)
    yield Bar("restorer: identity cosine to the truth", after)
    yield Bar("restorer: identity cosine above bicubic's", after - before, at_least=0.0)


def measure_speed(exam: Exam) -> Iterator[Bar]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    start = time.perf_counter()
    generate(exam.backend, ["a photo of a woman wearing a red kimono"] * 8, seed=7)
    torch.set_num_threads(threads)
    yield Bar(f"speed: 8 images, {STEPS} guided steps, two threads, s", time.perf_counter() - start, at_most=15.0)
    torch.set_num_threads(1)
    start, portraits = time.perf_counter(), 256
    draw_portraits(BALANCED, portraits, seed=8, size_px=exam.backend.image_size_px)
    torch.set_num_threads(threads)
    yield Bar(
        "speed: portraits rendered per second, one thread", portraits / (time.perf_counter() - start), at_least=100.0
    )


MEASUREMENTS: dict[str, Callable[[Exam], Iterator[Bar]]] = {
    "autoencoder": measure_autoencoder,
    "style": measure_style_reader,
    "base": measure_base,
    "balanced": measure_balanced,
    "attention": measure_attention,
    "identity": measure_identity,
    "parser": measure_parser,
    "restorer": measure_restorer,
    "speed": measure_speed,
}


def _sameness(exam: Exam, prompts: int = 8, images: int = 8) -> float:
    """Mean identity cosine between images of one prompt: 1 if it always draws the same face."""
    backend = exam.backend
    people = (~exam.answers.people.robot).nonzero()[:prompts, 0].tolist()
    values = []
    for i in people:
        made = generate(backend, [exam.answers.captions[i].text] * images, seed=1000 + i)
        vectors = _identity_features(backend, made)
        cosines = (vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)]
        values.append(cosines.mean())
    return torch.stack(values).mean().item()


def _dressed(backend: Backend, who: str, images: int = 16) -> float:
    """Share of images with a wedding dress where one is asked for."""
    made = generate(backend, [f"a photo of a {who} wearing a white wedding dress"] * images, seed=2000)
    read = read_attributes(backend, made, role_region("reference", parse_in_batches(backend, made).face_mask))
    dress = code("garment", "wedding dress")
    return (read[:, list(ATTRIBUTES).index("garment")] == dress).float().mean().item()


def _style_features(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    return backend.style_reader.embed(images, role_region("reference", parse_in_batches(backend, images).face_mask))


def _identity_features(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    return backend.identity_scorer.embed(images, parse_in_batches(backend, images).landmarks)
