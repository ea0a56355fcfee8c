"""Faces are cut out where they are, upright, and with gradient."""

import pytest
import torch

from mcpkg.method.face_alignment import _similarity, align_faces

TEMPLATE = ((0.33, 0.40), (0.67, 0.40), (0.50, 0.593), (0.373, 0.743), (0.627, 0.743))
LANDMARKS = torch.tensor([TEMPLATE])


def test_an_average_face_that_fills_the_frame_is_left_as_it_is(generator):
    images = torch.rand(1, 3, 80, 80, generator=generator)
    assert torch.allclose(align_faces(images, LANDMARKS, TEMPLATE, 80), images, atol=1e-4)


def test_a_crop_follows_its_face(generator):
    images = torch.rand(1, 3, 80, 80, generator=generator)
    moved = LANDMARKS + torch.tensor([8 / 80, 0.0])  # the face lies 8 pixels further right
    assert torch.allclose(align_faces(images, moved, TEMPLATE, 80)[..., :72], images[..., 8:], atol=1e-4)


def test_a_crop_turns_the_face_upright():
    # A quarter turn about the centre of the frame takes (x, y) to (1 - y, x); turned back, the picture is the same.
    images = torch.zeros(1, 3, 80, 80)
    images[..., 10:20, 40:60] = 1
    turned = images.rot90(-1, dims=(2, 3))
    landmarks = torch.stack([1 - LANDMARKS[..., 1], LANDMARKS[..., 0]], dim=-1)
    assert torch.allclose(align_faces(turned, landmarks, TEMPLATE, 80), images, atol=1e-3)


def test_a_face_that_is_wider_than_the_average_is_scaled_by_where_the_error_counts():
    # The template about its middle has squares of x summing to U, of y to V, and is symmetric. Of landmarks twice as
    # wide, sum(conj(w) z) = 2 U + V: the scale is (2 U + V) / (U + V) in the frame, (4 U + V) / (2 U + V) in the crop.
    points = torch.tensor(TEMPLATE)
    wide = (points - points.mean(dim=0)) * torch.tensor([2.0, 1.0]) + points.mean(dim=0)
    u, v = (points - points.mean(dim=0)).square().sum(dim=0).tolist()
    in_frame, in_crop = (_similarity(wide[None], TEMPLATE, fit)[0].real.item() for fit in ("frame", "crop"))
    assert in_frame == pytest.approx((2 * u + v) / (u + v)) and in_crop == pytest.approx((4 * u + v) / (2 * u + v))


def test_a_crop_has_gradients_to_pixels_and_landmarks(generator):
    images = torch.rand(1, 3, 80, 80, generator=generator).requires_grad_()
    landmarks = LANDMARKS.clone().requires_grad_()
    align_faces(images, landmarks, TEMPLATE, 40).square().sum().backward()
    assert images.grad.abs().sum() > 0 and landmarks.grad.abs().sum() > 0
