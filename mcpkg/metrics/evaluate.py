"""Score generated portraits: identity, style, realism, diversity, and leakage of the placeholders' attention."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mcpkg.data.portraits import Portraits
from mcpkg.inference.generate import Generated
from mcpkg.method.batch import ROLES
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.method.masks import role_region
from mcpkg.metrics.leakage import area_outside, attention_leakage, attention_mass
from mcpkg.metrics.realism import distance_to_real
from mcpkg.metrics.scores import ImageScores, Scores
from mcpkg.util.statistics import NAN, Interval, bootstrap_diversity, bootstrap_interval, mean_pairwise_cosine

N_STRANGERS = 64
HALF_WAY = 0.5
"""Threshold: above it a face counts as the person's and a style as the references'."""
COPY_MARGIN = 0.1
"""How much nearer to a reference person than to the source a copy is, on the scale stranger = 0, source = 1."""
CHANCE = 0.05
"""Accepted false-positive rate: fraction of unrelated faces that count as copies."""


@torch.no_grad()
def evaluate_portraits(
    backend: Backend,
    generated: Generated,
    source: Portraits,
    reference: Portraits,
    seed: int = 0,
) -> Scores:
    """Score generated images, with models that training did not see where there are any.

    Args:
        backend: its `identity_scorer` and `style_reader` judge, its parser finds the faces. Its strangers are the
            zero of scaled identity and the real images that the others are compared with; without them, its
            `stranger_cosine` is that zero, and the given portraits are what is real.
        generated: leakage is scored where it holds attention maps.
        seed: of the bootstrap.
    """
    generated = replace(generated, images=generated.images.to(backend.device))
    faces = backend.face_parser.parse(generated.images)
    one_face = faces.count == 1
    images = score_images(backend, generated, faces, source, reference)
    people, looks = _identity(backend, generated.images, faces), _style(backend, generated.images, faces)
    own = _identity(backend, source.images, source.faces)
    references = _style(backend, reference.images, reference.faces)
    among_source, among_references = mean_pairwise_cosine(own), mean_pairwise_cosine(references)
    style_of_source = (_style(backend, source.images, source.faces) @ references.T).mean().item()

    real, copy_from = torch.cat((source.images, reference.images)), HALF_WAY
    strangers = NAN if backend.stranger_cosine is None else backend.stranger_cosine
    if backend.strangers is not None:
        real, landmarks = (part.to(backend.device) for part in backend.strangers(N_STRANGERS))
        others = backend.identity_scorer.embed(real, landmarks)
        strangers = (others @ own.T).mean().item()
        nearest = (others @ _identity(backend, reference.images, reference.faces).T).amax(dim=1)
        copy_from = max(HALF_WAY, scaled(nearest, strangers, among_source).quantile(1 - CHANCE).item())
    # Where strangers are not known: directions that have nothing to do with each other have a cosine of 0.
    identity_scale = (0.0 if math.isnan(strangers) else strangers, among_source)
    style_scale = (style_of_source, among_references)
    copies, drops = collapse(images, identity_scale, style_scale, copy_from)
    images = replace(
        images,
        distance_to_real=distance_to_real(generated.images, real),
        copies_reference=copies,
        drops_style=drops,
    )

    generator = torch.Generator().manual_seed(seed)

    def interval(values: Float[Tensor, " n"]) -> Interval:
        return bootstrap_interval(values, generator)

    return Scores(
        identity=interval(images.identity),
        identity_scaled=interval(scaled(images.identity, strangers, among_source)),
        identity_to_reference=interval(images.identity_to_reference),
        style=interval(images.style),
        style_scaled=interval(scaled(images.style, *style_scale)),
        leakage_source=interval(images.leakage["source"]),
        leakage_reference=interval(images.leakage["reference"]),
        attention_mass_source=interval(images.mass["source"]),
        attention_mass_reference=interval(images.mass["reference"]),
        collapse=interval(torch.maximum(copies, drops)),
        copies_reference=interval(copies),
        drops_style=interval(drops),
        aesthetic=interval(images.aesthetic),
        distance_to_real=interval(images.distance_to_real),
        diversity_identity=bootstrap_diversity(people[one_face], generator),
        diversity_style=bootstrap_diversity(looks, generator),
        area_source=images.area["source"].nanmean().item(),
        area_reference=images.area["reference"].nanmean().item(),
        identity_among_source=among_source,
        identity_of_strangers=strangers,
        style_among_references=among_references,
        style_of_source=style_of_source,
        distance_to_real_of_references=distance_to_real(reference.images, real).mean().item(),
        no_face_fraction=1 - images.has_one_face.mean().item(),
        n_without_face=int((faces.count == 0).sum()),
        n_with_several_faces=int((faces.count > 1).sum()),
        n_images=len(generated.images),
        scored_by_trainer=backend.identity_scorer is backend.identity_trainer,
        images=images,
    )


def scorer(name: str, backend: Backend, source: Portraits, reference: Portraits) -> Callable[[Generated], float]:
    """The mean of one of the `Scores` as a function of portraits, by which a training can keep its best checkpoint.

    Args:
        name: see `mcpkg.training.run_options.KeptBy`.

    Raises:
        ValueError: the score is scaled by strangers, whom the backend does not know.
    """
    if name == "identity_scaled" and backend.strangers is None and backend.stranger_cosine is None:
        raise ValueError(
            f"keep_best: identity_scaled needs portraits of strangers, which {backend.name} does not have. "
            "Give identity, which puts checkpoints in the same order."
        )
    return lambda generated: getattr(evaluate_portraits(backend, generated, source, reference), name).mean


def score_images(
    backend: Backend, generated: Generated, faces: Faces, source: Portraits, reference: Portraits
) -> ImageScores:
    """One value per image, before any averaging."""
    one_face = faces.count == 1
    nan = torch.full((len(faces),), NAN, device=faces.found.device)

    identity = _identity(backend, generated.images, faces)
    to_source = (identity @ _identity(backend, source.images, source.faces).T).mean(dim=1)
    to_reference = identity @ _identity(backend, reference.images, reference.faces).T  # n m

    style = _style(backend, generated.images, faces)
    wanted = _style(backend, reference.images, reference.faces)

    leaks, mass, area = {}, {}, {}
    for role in ROLES:
        region = role_region(role, faces.face_mask)
        area[role] = torch.where(one_face, area_outside(region), nan)
        leaks[role] = mass[role] = nan
        if generated.maps is not None and role in generated.maps.roles:
            heatmap = generated.maps.heatmap(role)[:, None].to(region)  # n 1 k k
            leaks[role] = torch.where(one_face, attention_leakage(heatmap, region)[:, 0], nan)
            mass[role] = torch.where(one_face, attention_mass(heatmap, region)[:, 0], nan)
    return ImageScores(
        identity=torch.where(one_face, to_source, nan),
        identity_to_reference=torch.where(one_face, to_reference.mean(dim=1), nan),
        nearest_reference=torch.where(one_face, to_reference.amax(dim=1), nan),
        style=(style @ wanted.T).mean(dim=1),
        leakage=leaks,
        mass=mass,
        area=area,
        has_one_face=one_face.float(),
        aesthetic=nan if backend.aesthetic is None else backend.aesthetic.score(generated.images),
    )


def collapse(
    images: ImageScores, identity_scale: tuple[float, float], style_scale: tuple[float, float], copy_from: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Which images fell back on one of the two concepts: the failure that the paper shows without Refocusing.

    An image *copies the reference* if its face is that of a person in the reference portraits: on the scale of
    identity (stranger 0, source 1) its nearest reference face is at `copy_from` or above, and nearer than the source
    by more than COPY_MARGIN. A face that resembles no one is no copy; its identity score is low.

    An image *drops the style* if outside the face it looks rather like the source's own photos: on the scale of style
    (source photos 0, references among themselves 1) it is below HALF_WAY.

    Args:
        images: their identity, nearest reference and style.
        identity_scale: the cosines to the source of a stranger and of the source's own photos.
        style_scale: the cosines to the references of the source photos and of the references themselves.
        copy_from: on the scale of identity; HALF_WAY, or what only CHANCE of all strangers reach.

    Returns:
        (copies the reference, drops the style), 1 or 0 per image. NaN without a single face, and where a scale has
        no length: source photos as unlike as strangers, or source photos that have the style already.
    """
    source = scaled(images.identity, *identity_scale)
    nearest = scaled(images.nearest_reference, *identity_scale)
    style = scaled(images.style, *style_scale)

    def verdict(found: Bool[Tensor, " n"], measured: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return torch.where(images.has_one_face.bool() & measured.isfinite(), found.float(), NAN)

    copies = verdict((nearest >= copy_from) & (nearest > source + COPY_MARGIN), source)
    return copies, verdict(style < HALF_WAY, style)


def scaled(values: Float[Tensor, " n"], zero: float, one: float) -> Float[Tensor, " n"]:
    """0 at `zero` and 1 at `one`; NaN where that is no scale, or one of the two is not known."""
    return (values - zero) / (one - zero) if one > zero else torch.full_like(values, NAN)


def _identity(backend: Backend, images: Float[Tensor, "b 3 h w"], faces: Faces) -> Float[Tensor, "b d"]:
    return backend.identity_scorer.embed(images, faces.landmarks)


def _style(backend: Backend, images: Float[Tensor, "b 3 h w"], faces: Faces) -> Float[Tensor, "b d"]:
    return backend.style_reader.embed(images, role_region("reference", faces.face_mask))
