"""Failures of portraits, and for each the measurement that suggests it.

A measurement finds candidates; a person has to decide whether one is a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.generate import Generated
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.metrics.realism import distance_to_real, mahalanobis
from mcpkg.metrics.scores import Scores

FAILURES = {
    "wrong identity": "a face, but not the source's",
    "copied reference face": "the face of a person in the reference portraits",
    "lost style": "hair, clothes, background or colours are not the references'",
    "attention leakage": "attention to the person's placeholder outside the face",
    "abnormal features": "features where no face has them, or a face of odd size",
    "image artifacts": "blur, noise, ringing or blocks",
}
"""Name of a failure -> what it looks like."""

N_STRANGERS = 128


@dataclass(frozen=True)
class Suspect:
    """The image with the largest value of one measurement."""

    failure: str
    """Key of `FAILURES`."""
    index: int
    """Index of the image."""
    value: float
    median: float
    """The median over all images."""


def measure_failures(backend: Backend, generated: Generated, scores: Scores) -> dict[str, Float[Tensor, " n"]]:
    """Measure for each failure how much each image shows it; larger is worse, NaN where it is not defined.

    Args:
        scores: of these images, from `evaluate_portraits`.

    Returns:
        Failure -> one value per image; the last two failures only if the backend has strangers to compare with.
    """
    images, one = scores.images, scores.identity_among_source
    measured = {
        "wrong identity": one - images.identity,
        "copied reference face": images.nearest_reference - images.identity,
        "lost style": scores.style_among_references - images.style,
        "attention leakage": images.leakage["source"],
    }
    if backend.strangers is not None:
        real, drawn = backend.strangers(N_STRANGERS)[0].to(backend.device), generated.images.to(backend.device)
        known, faces = backend.face_parser.parse(real), backend.face_parser.parse(drawn)  # with the same parser errors
        measured["abnormal features"] = torch.where(faces.found, abnormality(faces, known[known.found]), float("nan"))
        measured["image artifacts"] = distance_to_real(drawn, real)
    return measured


def abnormality(faces: Faces, known: Faces) -> Float[Tensor, " n"]:
    """Compute how far a face's geometry is from known faces, in their standard deviations; about 1 for a usual face.

    The landmarks are transformed so that the eyes are at (-1/2, 0) and (1/2, 0), which removes position, size and
    roll: six numbers are the coordinates of nose and mouth corners. The seventh is the log of 1 plus the face's area
    over the squared distance of the eyes. The result is the Mahalanobis distance per dimension.

    Note:
        Both should come from one parser, so that its usual errors are in the covariance. The covariance gets 1e-4 (a
        hundredth of the eyes' distance, squared) on its diagonal: otherwise what hardly varies among known faces
        would count without bound.
    """
    real, found = _geometry(known), _geometry(faces)  # m 7, n 7
    covariance = real.T.cov() + 1e-4 * torch.eye(real.shape[1]).to(real)
    return mahalanobis(found, real.mean(dim=0), covariance)


def _geometry(faces: Faces) -> Float[Tensor, "n 7"]:
    points = torch.view_as_complex(faces.landmarks.double().contiguous())  # n 5
    left, right = points[:, :1], points[:, 1:2]
    span = right - left  # n 1
    span = torch.where(span.abs() < 1e-3, torch.full_like(span, 1e-3), span)
    placed = torch.view_as_real((points[:, 2:] - (left + right) / 2) / span).flatten(1)  # n 6
    area = faces.face_mask.double().mean(dim=(2, 3)) / span.abs().square()  # n 1
    return torch.cat((placed, area.log1p()), dim=1)


def find_suspects(measured: Mapping[str, Float[Tensor, " n"]]) -> list[Suspect]:
    """Return for each failure the image with the largest value; failures that are NaN for every image are left out."""
    suspects = []
    for failure, values in measured.items():
        if values.isfinite().any():
            index = int(values.nan_to_num(-torch.inf).argmax())
            suspects.append(Suspect(failure, index, values[index].item(), values.nanmedian().item()))
    return suspects
