"""Measurements of the built-in models on portraits and prompts that are not in any training data.

Each takes an `Exam` and yields bars. This module measures all models but the base ones, and lists all measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F

from mcpkg.course.bias import read_attributes
from mcpkg.factory.exam import BATCH, STEPS, Bar, Exam, degrade_portraits, generate, render_sample
from mcpkg.factory.measure_generation import measure_attention, measure_balanced, measure_base
from mcpkg.factory.metrics import iou, psnr, verification_tar
from mcpkg.method.interfaces import parse_in_batches
from mcpkg.world.attributes import ATTRIBUTES, FACE, PARTS, readable
from mcpkg.world.population import BALANCED


@torch.no_grad()
def measure_autoencoder(exam: Exam) -> Iterator[Bar]:
    """Measure how well decoded renders match the originals, in pixels and in identity."""
    renders, backend = exam.sample.renders, exam.backend
    decoded = torch.cat([backend.decode(backend.encode(x)).float() for x in renders.image.split(BATCH)]).clamp(0, 1)
    embed = backend.identity_scorer.embed
    cosines = (embed(renders.image, renders.landmarks) * embed(decoded, renders.landmarks)).sum(dim=1)
    person = ~exam.sample.people.robot
    yield Bar("autoencoder: PSNR, dB", psnr(decoded, renders.image).mean().item(), at_least=30.0)
    yield Bar("autoencoder: identity cosine, original to decoded", cosines[person].mean().item(), at_least=0.90)


@torch.no_grad()
def measure_style_reader(exam: Exam) -> Iterator[Bar]:
    """Measure the accuracy of each readable attribute on renders."""
    test = exam.sample
    keep = 1 - test.renders.parts[:, FACE, None]
    right = read_attributes(exam.backend, test.renders.image, keep) == test.looks.codes
    for column, attribute in enumerate(ATTRIBUTES):
        shown = readable(test.looks)[:, column]
        yield Bar(f"style reader: {attribute}, accuracy", right[shown, column].float().mean().item(), at_least=0.98)


@torch.no_grad()
def measure_identity(exam: Exam) -> Iterator[Bar]:
    """Measure the verification rate of both identity embedders on renders."""
    people = replace(BALANCED, robots=0.0)
    test = render_sample(people, 256, seed=4, per_person=4, size_px=exam.backend.image_size_px)
    labels = torch.arange(256).repeat_interleave(4)
    for role, embedder in (("train", exam.backend.identity_trainer), ("score", exam.backend.identity_scorer)):
        vectors = embedder.embed(test.renders.image, test.renders.landmarks)
        tar = verification_tar(vectors, labels)
        yield Bar(f"identity embedder ({role}): TAR at FAR 1e-3", tar, at_least=0.98)


@torch.no_grad()
def measure_parser(exam: Exam) -> Iterator[Bar]:
    """Measure the overlap of parsed parts and the error of landmarks on renders."""
    renders = exam.sample.renders
    faces = parse_in_batches(exam.backend, renders.image)
    truth = renders.parts.argmax(dim=1)  # b h w
    seen = faces.parts.argmax(dim=1)
    yield Bar("face parser: face IoU", iou(faces.face_mask[:, 0] > 0.5, truth == FACE).mean().item(), at_least=0.95)
    for part, name in enumerate(PARTS):
        shown = (truth == part).flatten(1).any(dim=1)
        if part != FACE:
            yield Bar(f"face parser: {name} IoU", iou(seen[shown] == part, truth[shown] == part).mean().item())
    offset_px = (faces.landmarks - renders.landmarks).norm(dim=-1).mean().item() * renders.image.shape[-1]
    yield Bar("face parser: landmark error, px", offset_px)


@torch.no_grad()
def measure_restorer(exam: Exam) -> Iterator[Bar]:
    """Measure restored renders against bicubic enlargement, in pixels and in identity."""
    size = exam.backend.image_size_px
    test = render_sample(replace(BALANCED, robots=0.0), 128, seed=5, size_px=2 * size)
    sharp = test.renders.image
    degraded = degrade_portraits(sharp, seed=6)
    bicubic = F.interpolate(degraded, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    restored = torch.cat([exam.backend.restorer.restore(x) for x in degraded.split(BATCH)]).clamp(0, 1)
    gain = psnr(restored, sharp).mean() - psnr(bicubic, sharp).mean()
    embed = exam.backend.identity_scorer.embed
    own = embed(sharp, test.renders.landmarks)
    before, after = ((embed(x, test.renders.landmarks) * own).sum(dim=1).mean().item() for x in (bicubic, restored))
    yield Bar("restorer: PSNR above bicubic, dB", gain.item(), at_least=2.0)
    yield Bar("restorer: identity cosine to the truth", after)
    yield Bar("restorer: identity cosine above bicubic's", after - before, at_least=0.0)


def measure_speed(exam: Exam) -> Iterator[Bar]:
    """Measure the speed of generating and of rendering."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    start = time.perf_counter()
    generate(exam.backend, ["a photo of a woman wearing a red kimono"] * 8, seed=7)
    torch.set_num_threads(threads)
    yield Bar(f"speed: 8 images, {STEPS} guided steps, two threads, s", time.perf_counter() - start, at_most=15.0)
    torch.set_num_threads(1)
    start, portraits = time.perf_counter(), 256
    render_sample(BALANCED, portraits, seed=8, size_px=exam.backend.image_size_px)
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
