"""Score the images that came out: who is it, in which style, and did the words leak?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.backends.base import Backend, Faces
from mcpkg.generate import Generated
from mcpkg.leakage import area_outside, attention_mass, leakage
from mcpkg.masks import reference_mask, source_mask
from mcpkg.portraits import Portraits

RESAMPLES = 2000
N_STRANGERS = 64


@dataclass(frozen=True)
class Interval:
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Images that the mean is over."""


@dataclass(frozen=True)
class ImageScores:
    """One value per image; NaN where it cannot be told (no single face, no maps)."""

    identity: Float[Tensor, " n"]
    """Mean cosine to the source photos."""
    identity_to_reference: Float[Tensor, " n"]
    """Mean cosine to the reference portraits' faces: high if the style's people leak in."""
    style: Float[Tensor, " n"]
    """Mean cosine of the style outside the face to that of the reference photos."""
    leakage: dict[str, Float[Tensor, " n"]]
    """Role -> share of its word's attention outside its region (source: face, reference: rest)."""
    mass: dict[str, Float[Tensor, " n"]]
    """Role -> mean attention inside its region; near 0 means that the word is not looked at."""
    area: dict[str, Float[Tensor, " n"]]
    """Role -> share of the image outside its region: the leakage of attention that is uniform."""
    has_one_face: Float[Tensor, " n"]


@dataclass(frozen=True)
class Scores:
    """What one method made of one pair of source and reference."""

    identity: Interval
    identity_scaled: Interval
    """0 for a stranger, 1 for the source's own photos among themselves."""
    identity_to_reference: Interval
    style: Interval
    leakage_source: Interval
    leakage_reference: Interval
    attention_mass_source: Interval
    attention_mass_reference: Interval
    area_source: float
    """Leakage that uniform attention of the source word would have."""
    area_reference: float
    identity_among_source: float
    identity_of_strangers: float
    style_among_references: float
    faceless_share: float
    """Share of images with no face or several; they are left out of identity."""
    n_images: int
    images: ImageScores | None = None
    """The same, image by image."""

    def as_dict(self) -> dict:
        """Means and intervals as plain numbers, ready for JSON (NaN becomes None)."""
        values = asdict(replace(self, images=None))
        values.pop("images")
        return _without_nan(values)


@torch.no_grad()
def evaluate_portraits(
    backend: Backend,
    generated: Generated,
    source: Portraits,
    reference: Portraits,
    seed: int = 0,
) -> Scores:
    """Score generated images with the models that training did not see.

    Args:
        backend: its `identity_scorer` and `style_reader` judge, its parser finds the faces.
        generated: leakage is scored where it holds attention maps.
        seed: of the bootstrap.
    """
    faces = backend.face_parser.parse(generated.images)
    images = score_images(backend, generated, faces, source, reference)

    own = _identity(backend, source.images, source.faces)
    among_source = mean_pairwise_cosine(own)
    strangers = float("nan")
    if backend.strangers is not None:
        others = backend.identity_scorer.embed(*(part.to(backend.device) for part in backend.strangers(N_STRANGERS)))
        strangers = (others @ own.T).mean().item()
    scaled = (images.identity - strangers) / (among_source - strangers)

    generator = torch.Generator().manual_seed(seed)

    def interval(values: Float[Tensor, " n"]) -> Interval:
        return bootstrap_interval(values, generator)

    return Scores(
        identity=interval(images.identity),
        identity_scaled=interval(scaled),
        identity_to_reference=interval(images.identity_to_reference),
        style=interval(images.style),
        leakage_source=interval(images.leakage["source"]),
        leakage_reference=interval(images.leakage["reference"]),
        attention_mass_source=interval(images.mass["source"]),
        attention_mass_reference=interval(images.mass["reference"]),
        area_source=images.area["source"].nanmean().item(),
        area_reference=images.area["reference"].nanmean().item(),
        identity_among_source=among_source,
        identity_of_strangers=strangers,
        style_among_references=mean_pairwise_cosine(
            backend.style_reader.embed(reference.images, reference_mask(reference.faces))
        ),
        faceless_share=1 - images.has_one_face.mean().item(),
        n_images=len(generated.images),
        images=images,
    )


def score_images(
    backend: Backend, generated: Generated, faces: Faces, source: Portraits, reference: Portraits
) -> ImageScores:
    """One value per image, before any averaging."""
    one_face = faces.count == 1
    nan = torch.full((len(faces),), float("nan"), device=faces.found.device)

    identity = _identity(backend, generated.images, faces)
    to_source = (identity @ _identity(backend, source.images, source.faces).T).mean(dim=1)
    to_reference = (identity @ _identity(backend, reference.images, reference.faces).T).mean(dim=1)

    style = backend.style_reader.embed(generated.images, reference_mask(faces))
    wanted = backend.style_reader.embed(reference.images, reference_mask(reference.faces))

    leaks, mass, area = {}, {}, {}
    for role, region in {"source": source_mask(faces), "reference": reference_mask(faces)}.items():
        area[role] = torch.where(one_face, area_outside(region), nan)
        leaks[role] = mass[role] = nan
        if role in generated.maps:
            heat = generated.maps[role][:, None].to(region)                      # n 1 k k
            leaks[role] = torch.where(one_face, leakage(heat, region)[:, 0], nan)
            mass[role] = torch.where(one_face, attention_mass(heat, region)[:, 0], nan)
    return ImageScores(
        identity=torch.where(one_face, to_source, nan),
        identity_to_reference=torch.where(one_face, to_reference, nan),
        style=(style @ wanted.T).mean(dim=1),
        leakage=leaks,
        mass=mass,
        area=area,
        has_one_face=one_face.float(),
    )


def bootstrap_interval(values: Float[Tensor, " n"], generator: torch.Generator) -> Interval:
    """Mean and 95 % interval by drawing the images again with replacement; NaN are left out."""
    values = values[values.isfinite()].double().cpu()
    n = len(values)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = torch.randint(n, (RESAMPLES, n), generator=generator)
    low, high = values[draws].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high, n)


def mean_pairwise_cosine(vectors: Float[Tensor, "n d"]) -> float:
    """Mean cosine of different unit vectors; 1 where there is only one."""
    n = len(vectors)
    if n == 1:
        return 1.0
    return (((vectors @ vectors.T).sum() - n) / (n * (n - 1))).item()


def score_table(rows: dict[str, Scores], columns: Sequence[str] = ()) -> str:
    """A small text table, one line a method, mean and interval in each cell."""
    columns = columns or ("identity", "identity_scaled", "style", "leakage_source", "leakage_reference")
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"  {column:>20}" for column in columns)]
    for name, scores in rows.items():
        cells = (getattr(scores, column) for column in columns)
        texts = (f"{cell.mean:.2f} [{cell.low:.2f}, {cell.high:.2f}]" for cell in cells)
        lines.append(f"{name:<{width}}" + "".join(f"  {text:>20}" for text in texts))
    return "\n".join(lines)


def _identity(backend: Backend, images: Float[Tensor, "b 3 h w"], faces: Faces) -> Float[Tensor, "b d"]:
    return backend.identity_scorer.embed(images, faces.landmarks)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value
