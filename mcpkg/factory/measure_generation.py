"""Measurements of the base models: what they generate for unseen prompts, and where each word has its attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mcpkg.course.bias import read_attributes
from mcpkg.factory.exam import Bar, Exam, generate, render_sample
from mcpkg.factory.metrics import frechet_distance
from mcpkg.method.interfaces import Backend, parse_in_batches
from mcpkg.method.masks import role_region
from mcpkg.world.attributes import ATTRIBUTES, COLUMN, PARTS, Looks, People, code, readable
from mcpkg.world.population import WEB

WORD_CLASSES: dict[str, tuple[str, ...]] = {
    "hair": ("hair",),
    "garment": ("garment",),
    "background": ("background",),
    "person": ("face", "hair", "ears", "neck", "garment"),
    "accessory": ("accessory",),
}
"""Class of words -> the parts that they describe; a word of other parts (such as "bald") is in no class."""


def named_attributes(people: People, looks: Looks) -> Bool[Tensor, "b a"]:
    """Return which attributes a full caption names: the readable ones without "none" and the plain treatment."""
    names = readable(looks).clone()
    names[:, COLUMN["accessory"]] &= looks.accessory != code("accessory", "none")
    names[:, COLUMN["treatment"]] &= looks.treatment != code("treatment", "plain")
    names[:, COLUMN["hair"]] &= ~people.robot
    names[:, COLUMN["hair_colour"]] &= ~people.robot
    return names


@torch.no_grad()
def measure_base(exam: Exam) -> Iterator[Bar]:
    """Measure the base model: requested attributes, faces, diversity and distance to renders."""
    answers, backend = exam.answers, exam.backend
    right = (
        read_attributes(backend, answers.images, role_region("reference", answers.faces.face_mask))
        == answers.looks.codes
    )
    requested = named_attributes(answers.people, answers.looks)
    for column, attribute in enumerate(ATTRIBUTES):
        hits = right[requested[:, column], column].float()
        name = f"base: requested {attribute.replace('_', ' ')} is shown (of {len(hits)})"
        yield Bar(name, hits.mean().item(), at_least=0.90)
    one_face = (answers.faces.count == 1).float().mean().item()
    yield Bar("base: exactly one face", one_face, at_least=0.98)
    yield Bar("base: identity cosine between images of one prompt", _same_prompt_cosine(exam), at_most=0.35)

    for subject in ("woman", "man"):
        yield Bar(
            f"base: requested wedding dress is shown, {subject} (rare in the training data for men)",
            _wedding_dress_rate(backend, subject),
        )

    n = len(answers.images)
    real, other_real = (render_sample(WEB, n, seed, size_px=backend.image_size_px).renders.image for seed in (2, 3))
    for name, features in (("style", _style_features), ("identity", _identity_features)):
        generated, truth, other = (features(backend, images) for images in (answers.images, real, other_real))
        distance = f"base: Frechet distance in {name} features"
        yield Bar(f"{distance}, generated to renders", frechet_distance(generated, truth))
        yield Bar(f"{distance}, renders to renders", frechet_distance(other, truth))


@torch.no_grad()
def measure_balanced(exam: Exam) -> Iterator[Bar]:
    """Measure the base model trained on `BALANCED`: on what bias makes rare, and on a sample of the other prompts."""
    backend = exam.balanced
    for subject in ("woman", "man"):
        name = f"balanced base: requested wedding dress is shown, {subject}"
        yield Bar(name, _wedding_dress_rate(backend, subject))
    answers = Exam(backend, min(64, exam.prompts)).answers
    right = (
        read_attributes(backend, answers.images, role_region("reference", answers.faces.face_mask))
        == answers.looks.codes
    )
    requested = named_attributes(answers.people, answers.looks)
    name = f"balanced base: requested attributes are shown (of {int(requested.sum())})"
    yield Bar(name, right[requested].float().mean().item())
    one_face = (answers.faces.count == 1).float().mean().item()
    yield Bar("balanced base: exactly one face", one_face, at_least=0.98)


@torch.no_grad()
def measure_attention(exam: Exam) -> Iterator[Bar]:
    """Measure for each class of words how well their attention matches their part."""
    answers = exam.answers
    size = answers.attention.shape[-1]
    cells = F.adaptive_avg_pool2d(answers.faces.parts.cpu(), size)  # b p k k
    rows: dict[str, list[Tensor]] = {name: [] for name in WORD_CLASSES}
    for i, caption in enumerate(answers.captions):
        for k, parts in enumerate(caption.parts):
            name = next((n for n, own in WORD_CLASSES.items() if own == tuple(PARTS[p] for p in parts)), None)
            if name is None:
                continue
            region = cells[i, list(parts)].sum(dim=0)
            if region.mean() > 0.01:  # else the base did not draw the part, which is no error of attention
                rows[name].append(attention_on_part(answers.attention[i, k], region))
    for name, measured in rows.items():
        fraction, area, coverage = torch.stack(measured).mean(dim=0).tolist() if measured else (float("nan"),) * 3
        has_bar = name != "accessory"
        small = has_bar and area < 0.3
        yield Bar(f"attention: {name} words, fraction inside their part", fraction, 0.6 if has_bar else None)
        yield Bar(f"attention: {name} words, fraction of the part's area covered", coverage, 0.4 if has_bar else None)
        ratio = fraction / area
        yield Bar(f"attention: {name} words, fraction inside over area ({area:.2f})", ratio, 2.0 if small else None)


def attention_on_part(attention: Float[Tensor, "k k"], region: Float[Tensor, "k k"]) -> Float[Tensor, 3]:
    """Measure how well one word's attention matches its part.

    Args:
        attention: the word's map, >= 0.
        region: fraction of each cell that the part covers.

    Returns:
        The fraction of the attention that is inside the part; the fraction of the image that is the part; and the
        fraction of the part whose attention is above the map's mean, which a few bright pixels cannot raise.
    """
    inside = (attention * region).sum() / attention.sum()
    covered = (region * (attention > attention.mean())).sum() / region.sum()
    return torch.stack([inside, region.mean(), covered])


def _same_prompt_cosine(exam: Exam, prompts: int = 8, images: int = 8) -> float:
    """Compute the mean identity cosine between images of one prompt: 1 if the model always draws the same face."""
    backend = exam.backend
    people = (~exam.answers.people.robot).nonzero()[:prompts, 0].tolist()
    values = []
    for i in people:
        generated = generate(backend, [exam.answers.captions[i].text] * images, seed=1000 + i)
        vectors = _identity_features(backend, generated)
        cosines = (vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)]
        values.append(cosines.mean())
    return torch.stack(values).mean().item()


def _wedding_dress_rate(backend: Backend, subject: str, images: int = 16) -> float:
    """Compute the fraction of images with a wedding dress if the prompt requests one."""
    generated = generate(backend, [f"a photo of a {subject} wearing a white wedding dress"] * images, seed=2000)
    codes = read_attributes(
        backend, generated, role_region("reference", parse_in_batches(backend, generated).face_mask)
    )
    return (codes[:, COLUMN["garment"]] == code("garment", "wedding dress")).float().mean().item()


def _style_features(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    return backend.style_reader.embed(images, role_region("reference", parse_in_batches(backend, images).face_mask))


def _identity_features(backend: Backend, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    return backend.identity_scorer.embed(images, parse_in_batches(backend, images).landmarks)
