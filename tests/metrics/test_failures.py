import math
from dataclasses import replace

import torch

from mcpkg.method.interfaces import Faces
from mcpkg.metrics.failures import abnormality, find_suspects


def faces(n, generator, spread=0.01):
    """Faces that differ a little, at any place, size and roll."""
    shape = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.43, 0.6], [0.57, 0.6]])
    landmarks = shape + spread * torch.randn(n, 5, 2, generator=generator)
    mask = torch.zeros(n, 1, 20, 20)
    mask[:, :, 6:16, 8:14] = 1
    found = torch.ones(n)
    return Faces(found.bool(), found.long(), mask, mask, landmarks)


def test_known_faces_are_at_a_distance_of_about_one(generator):
    known = faces(400, generator)
    assert abs(abnormality(known, known).square().mean() - 1) < 0.2


def test_a_misplaced_mouth_is_abnormal(generator):
    known, found = faces(400, generator), faces(3, generator)
    moved = found.landmarks.clone()
    moved[1, 3:] += torch.tensor([0.15, 0.0])
    distance = abnormality(replace(found, landmarks=moved), known)
    assert distance.argmax() == 1 and distance[1] > 3 > distance[0]


def test_place_size_and_roll_are_not_abnormal(generator):
    known, found = faces(400, generator), faces(3, generator)
    quarter_turn, small = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.zeros(3, 1, 20, 20)
    small[:, :, 2:7, 3:6] = 1  # 5 x 3 cells, where the mask had 10 x 6
    other = replace(found, landmarks=0.8 + 0.5 * found.landmarks @ quarter_turn, face_mask=small)
    torch.testing.assert_close(abnormality(other, known), abnormality(found, known), rtol=1e-3, atol=1e-3)


def test_eyes_at_one_point_give_a_number(generator):
    known, found = faces(400, generator), faces(1, generator)
    merged = found.landmarks.clone()
    merged[:, 1] = merged[:, 0]
    assert math.isfinite(abnormality(replace(found, landmarks=merged), known).item())


def test_the_suspect_is_the_worst_image_and_nan_is_no_suspect():
    nan = float("nan")
    measured = {"lost style": torch.tensor([0.1, nan, 0.7, 0.2]), "attention leakage": torch.tensor([nan, nan])}
    (suspect,) = find_suspects(measured)
    assert (suspect.failure, suspect.index) == ("lost style", 2)
    torch.testing.assert_close([suspect.value, suspect.median], [0.7, 0.2])
