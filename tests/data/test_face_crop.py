from dataclasses import replace

import pytest
import torch
from PIL import Image

from mcpkg.data.face_crop import crop_to_face, largest_part, square_windows
from mcpkg.method.interfaces import Faces
from tests.helpers.tiny_backend import LANDMARKS, tiny_backend


class RedParser:
    """A face is what is red."""

    def parse(self, images):
        mask = ((images[:, :1] > 0.9) & (images[:, 1:2] < 0.1)).float()
        masks = [(largest_part(m), m) for m in mask]
        count = torch.tensor([0 if not m.any() else 2 if (m - part).any() else 1 for part, m in masks])
        parts = torch.cat((1 - mask, mask), dim=1)
        return Faces(count > 0, count, mask, parts, LANDMARKS.expand(len(images), -1, -1).clone())


@pytest.fixture
def backend():
    backend = tiny_backend()
    backend.face_parser = RedParser()
    return backend


def scene(width, height, *faces):
    """Grey, with red squares at (left, top, side)."""
    image = Image.new("RGB", (width, height), (128, 128, 128))
    for left, top, side in faces:
        image.paste((255, 0, 0), (left, top, left + side, top + side))
    return image


def test_windows_cover_the_long_side_and_share_half_with_the_next():
    assert square_windows(100, 100) == [(0, 0, 100, 100)]
    assert square_windows(150, 100) == [(0, 0, 100, 100), (50, 0, 150, 100)]
    # 80 rows are left beside the first: gaps of 40, half of the side, would be 2; here 2 * 80 / 80 = 2
    assert square_windows(80, 160) == [(0, 0, 80, 80), (0, 40, 80, 120), (0, 80, 80, 160)]


def test_the_crop_is_three_faces_high_around_the_face(backend):
    crop = crop_to_face(scene(320, 320, (100, 100, 40)), backend)
    # 3 x 40 = 120 a side; the face's middle, 120, lies at 50 % from the left and 45 % from the top: 60 and 66.
    assert crop.box == (60, 66, 180, 186)
    assert crop.image.shape == (3, 32, 32) and not crop.several
    assert crop.faces.face_mask.mean() == pytest.approx(1 / 9, abs=0.03)


def test_a_tight_portrait_stays_whole(backend):
    assert crop_to_face(scene(320, 320, (60, 60, 200)), backend).box == (0, 0, 320, 320)


def test_a_face_at_the_edge_is_cropped_within_the_picture(backend):
    assert crop_to_face(scene(320, 320, (280, 0, 40)), backend).box == (200, 0, 320, 120)


@pytest.mark.parametrize("at", [(10, 20), (280, 20), (560, 20)])
def test_a_face_anywhere_in_a_wide_photo_is_found(backend, at):
    left, top, right, bottom = crop_to_face(scene(640, 160, (*at, 60)), backend).box
    assert left <= at[0] and at[0] + 60 <= right and bottom - top == 160


@pytest.mark.slow
def test_the_largest_of_several_faces_is_taken_and_others_leave_no_mask(backend):
    crop = crop_to_face(scene(320, 320, (100, 100, 60), (200, 110, 30)), backend)
    assert crop.several
    columns = crop.faces.face_mask[0, 0].any(dim=0).nonzero().flatten()
    # 180 pixels from 40 on become 32; the large face spans 60 to 120 of them, or 10.7 to 21.3; the small one 160 on
    assert columns.min() >= 10 and columns.max() <= 21


def test_faces_at_both_ends_of_a_wide_photo_are_several(backend):
    crop = crop_to_face(scene(480, 160, (20, 60, 50), (400, 60, 40)), backend)
    assert crop.several and crop.box[0] == 0


def test_no_face_is_none(backend):
    assert crop_to_face(scene(64, 64), backend) is None


def test_a_face_that_is_missed_in_the_crop_is_taken_from_the_window(backend):
    parse = backend.face_parser.parse

    def miss_large_faces(images):
        faces = parse(images)
        seen = faces.face_mask.mean(dim=(1, 2, 3)) < 0.05  # loses faces that are large in the frame
        return replace(faces, found=faces.found & seen, count=faces.count * seen)

    backend.face_parser.parse = miss_large_faces
    assert crop_to_face(scene(320, 320, (100, 100, 40)), backend).box == (0, 0, 320, 320)


def test_a_face_split_by_glasses_stays_one_face():
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:20, 10:30] = 1
    mask[:, 22:30, 10:30] = 1  # below glasses of one cell, 2 pixels
    mask[:, 50:60, 50:60] = 1
    kept = largest_part(mask)
    assert torch.equal(kept[:, :40], mask[:, :40]) and not kept[:, 40:].any()
