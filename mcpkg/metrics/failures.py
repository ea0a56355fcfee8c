"""A vocabulary for what goes wrong in a portrait, each word with the measurement that suggests it.

A measurement finds candidates; whether one is a failure is for a person to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.generate import Generated
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.metrics.realism import distance_to_real
from mcpkg.metrics.scores import Scores

VOCABULARY = {
    "another person": "a face, but not the source's",
    "borrowed face": "the face of somebody in the reference portraits",
    "lost look": "hair, clothes, background or colours are not the references'",
    "spilled word": "the person's word is looked at outside the face",
    "abnormal parts": "features where no face has them, or a face of odd size",
    "unreal surface": "blur, noise, ringing or blocks",
}
"""Name of a failure -> what one sees."""

N_STRANGERS = 128


@dataclass(frozen=True)
class Suspect:
    """The image that a measurement points at first."""

    failure: str
    """From `VOCABULARY`."""
    index: int
    """Of the image."""
    value: float
    typical: float
    """The median over all images."""


def measure_failures(backend: Backend, generated: Generated, scores: Scores) -> dict[str, Float[Tensor, " n"]]:
    """Failure -> how strongly each image is suspected of it; larger is worse, NaN where it cannot be told.

    Args:
        scores: of these images, from `evaluate_portraits`.
    """
    images, one = scores.images, scores.identity_among_source
    measured = {
        "another person": one - images.identity,
        "borrowed face": images.nearest_reference - images.identity,
        "lost look": scores.style_among_references - images.style,
        "spilled word": images.leakage["source"],
    }
    if backend.strangers is not None:
        real, drawn = backend.strangers(N_STRANGERS)[0].to(backend.device), generated.images.to(backend.device)
        known, faces = backend.face_parser.parse(real), backend.face_parser.parse(drawn)  # with the same errors
        measured["abnormal parts"] = torch.where(faces.found, abnormality(faces, known[known.found]), float("nan"))
        measured["unreal surface"] = distance_to_real(drawn, real)
    return measured


def abnormality(faces: Faces, known: Faces) -> Float[Tensor, " n"]:
    """How far a face's geometry is from known ones, in their own standard deviations; about 1 for a usual face.

    The landmarks are brought to a frame with the eyes at (-1/2, 0) and (1/2, 0), so that place, size and roll do not
    count: six numbers say where nose and mouth corners are. The seventh is the face's area over the eyes' distance
    squared. The distance is Mahalanobis', divided by the root of seven.

    Note:
        Both should come from one parser, so that its errors are a part of what is usual. A hundredth of the eyes'
        distance is added to every deviation, for what hardly varies among known faces would count without bound.
    """
    real, found = _geometry(known), _geometry(faces)  # m 7, n 7
    covariance = real.T.cov() + 1e-4 * torch.eye(real.shape[1]).to(real)
    away = found - real.mean(dim=0)
    return (torch.linalg.solve(covariance, away.T) * away.T).mean(dim=0).sqrt()


def _geometry(faces: Faces) -> Float[Tensor, "n 7"]:
    points = torch.view_as_complex(faces.landmarks.double().contiguous())  # n 5
    left, right = points[:, :1], points[:, 1:2]
    span = right - left  # n 1
    span = torch.where(span.abs() < 1e-3, torch.full_like(span, 1e-3), span)
    placed = torch.view_as_real((points[:, 2:] - (left + right) / 2) / span).flatten(1)  # n 6
    area = faces.face_mask.double().mean(dim=(2, 3)) / span.abs().square()  # n 1
    return torch.cat((placed, area.log1p()), dim=1)


def find_suspects(measured: Mapping[str, Float[Tensor, " n"]]) -> list[Suspect]:
    """For each failure the most suspected image; of those that no image can be told about, none."""
    suspects = []
    for failure, values in measured.items():
        if values.isfinite().any():
            index = int(values.nan_to_num(-torch.inf).argmax())
            suspects.append(Suspect(failure, index, values[index].item(), values.nanmedian().item()))
    return suspects
