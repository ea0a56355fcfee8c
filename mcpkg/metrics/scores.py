"""The results of an evaluation: scores of each image, and their means."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ConfigDict, field_validator
from torch import Tensor

from mcpkg.util.files import finite
from mcpkg.util.schema import Schema, check_json, read_text_of
from mcpkg.util.statistics import NAN, Interval


@dataclass(frozen=True)
class ImageScores:
    """One value per image; NaN where it is not defined (no face or several, no attention maps)."""

    identity: Float[Tensor, " n"]
    """Mean cosine to the source photos."""
    identity_to_reference: Float[Tensor, " n"]
    """Mean cosine to the reference portraits' faces: high if the style's people leak in."""
    nearest_reference: Float[Tensor, " n"]
    """Cosine to the most similar of the reference portraits' faces."""
    style: Float[Tensor, " n"]
    """Mean cosine of the style outside the face to that of the reference portraits."""
    leakage: dict[str, Float[Tensor, " n"]]
    """Role -> fraction of its placeholder's attention outside its region (source: face, reference: rest)."""
    mass: dict[str, Float[Tensor, " n"]]
    """Role -> mean attention inside its region; near 0, the placeholder has hardly any effect."""
    area: dict[str, Float[Tensor, " n"]]
    """Role -> fraction of the image outside its region: the leakage of uniform attention."""
    has_one_face: Float[Tensor, " n"]
    distance_to_real: Float[Tensor, " n"] | None = None
    """See `mcpkg.metrics.realism.distance_to_real`."""
    copies_reference: Float[Tensor, " n"] | None = None
    """1 where it shows a reference person, see `mcpkg.metrics.evaluate.collapse`."""
    drops_style: Float[Tensor, " n"] | None = None
    """1 where it looks more like the source photos, see `mcpkg.metrics.evaluate.collapse`."""
    aesthetic: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class Scores:
    """Mean scores of one method on one pair of source and reference."""

    identity: Interval
    identity_scaled: Interval
    """0 for a stranger, 1 for the source's own photos among themselves."""
    identity_to_reference: Interval
    style: Interval
    style_scaled: Interval
    """0 for the source's own photos, 1 for the reference portraits among themselves."""
    leakage_source: Interval
    leakage_reference: Interval
    attention_mass_source: Interval
    attention_mass_reference: Interval
    collapse: Interval
    """Fraction of images that copy a reference person or drop the style, see `mcpkg.metrics.evaluate.collapse`."""
    copies_reference: Interval
    drops_style: Interval
    aesthetic: Interval
    """The backend's rating of the images, NaN if it has none."""
    distance_to_real: Interval
    """How far the images' detail is from that of real portraits; about 1 for a real one, more for blur and noise."""
    diversity_identity: Interval
    """1 - mean cosine between the images' faces; compare with 1 - identity_among_source."""
    diversity_style: Interval
    """1 - mean cosine between the images' styles; compare with 1 - style_among_references."""
    area_source: float
    """Leakage that uniform attention to the source placeholder would have."""
    area_reference: float
    identity_among_source: float
    identity_of_strangers: float
    """NaN if the backend does not know it."""
    style_among_references: float
    style_of_source: float
    """Of the source's own photos to the references: the score of a method that ignores the style."""
    distance_to_real_of_references: float
    """The reference portraits' own, for comparison."""
    no_face_fraction: float
    """Fraction of images with no face or several; they are left out of identity, leakage and all scores of faces."""
    n_without_face: int
    n_with_several_faces: int
    n_images: int
    scored_by_trainer: bool = False
    """Whether the network that scored identity is that of the identity loss, for want of another. Methods with that
    loss then score too high: they learned what pleases this network."""
    images: ImageScores | None = None
    """The scores of each image."""

    def as_dict(self) -> dict:
        """Return means and intervals as plain numbers, ready for JSON (NaN becomes None)."""
        values = asdict(replace(self, images=None))
        values.pop("images")
        return finite(values)


def scores_to_json(scores: Scores) -> dict:
    """`scores` as `Scores.as_dict` gives them and the scores of each `images`, both for `scores_from_json`."""
    images = {name: value for name, value in vars(scores.images).items() if value is not None}
    lists = {
        name: {role: tensor.tolist() for role, tensor in value.items()} if isinstance(value, dict) else value.tolist()
        for name, value in images.items()
    }
    return {"scores": scores.as_dict(), "images": finite(lists)}


def scores_from_json(scores: dict, images: dict) -> Scores:
    """The scores that `scores_to_json` gave, None being NaN again."""

    def number(value: float | None) -> Any:
        return NAN if value is None else value

    def tensor(values: list) -> Tensor:
        return torch.tensor([number(value) for value in values], dtype=torch.float64)  # as exact as JSON

    of_images = {
        name: {role: tensor(one) for role, one in value.items()} if isinstance(value, dict) else tensor(value)
        for name, value in images.items()
    }
    means: dict[str, Any] = {
        name: Interval(**{key: number(one) for key, one in value.items()}) if isinstance(value, dict) else number(value)
        for name, value in scores.items()
    }
    return Scores(**means, images=ImageScores(**of_images))


def score_table(rows: dict[str, Scores], columns: Sequence[str] = ()) -> str:
    """Return a text table with one line per method, mean and interval in each cell."""
    columns = columns or ("identity", "identity_scaled", "style", "leakage_source", "leakage_reference", "collapse")
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"  {column:>20}" for column in columns)]
    for name, scores in rows.items():
        cells = (getattr(scores, column) for column in columns)
        texts = (f"{cell.mean:.2f} [{cell.low:.2f}, {cell.high:.2f}]" for cell in cells)
        lines.append(f"{name:<{width}}" + "".join(f"  {text:>20}" for text in texts))
    return "\n".join(lines)


class _Interval(Schema):
    mean: float | None
    low: float | None
    high: float | None
    n: int


_FLAGS = ("scored_by_trainer",)  # true or false; all other scores are numbers


class _ScoresFile(Schema):
    model_config = ConfigDict(extra="ignore")
    methods: dict[str, dict[str, _Interval | float | bool | None]]

    @field_validator("methods")
    @classmethod
    def _check_flags(cls, methods: dict[str, dict]) -> dict[str, dict]:
        for name, scores in methods.items():
            if odd := [score for score, value in scores.items() if (score in _FLAGS) is not isinstance(value, bool)]:
                raise ValueError(f"{name}: {odd[0]} is {scores[odd[0]]!r}")
        return methods


def read_scores(path: str | Path, method: str) -> dict | None:
    """A method's scores from `scores.json`, as `Scores.as_dict` gave them; None if it has none of that method.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged; the message names the field.
    """
    advice = "Evaluate again, or remove this file."
    methods = check_json(read_text_of(path, advice), _ScoresFile, path, advice).model_dump()["methods"]
    return methods.get(method)
