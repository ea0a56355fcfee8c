import math

import pytest
import torch

from mcpkg.course.mask_errors import drop_mask, mask_error, with_face_masks
from mcpkg.method.masks import shift_mask
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def square() -> torch.Tensor:
    """2 x 2 ones in the middle of 4 x 4."""
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    return mask


def test_the_lower_half_of_a_mask_is_lost():
    assert drop_mask(square(), 0.5).sum(dim=(0, 1, 3)).tolist() == [0, 2, 0, 0]


def test_a_row_is_lost_as_far_as_needed():
    # of an area of 4, 3 stay: all of the upper row, half of each pixel of the lower
    assert drop_mask(square(), 0.25).sum(dim=(0, 1, 3)).tolist() == [0, 2, 1, 0]


def test_each_mask_loses_a_share_of_its_own():
    masks = torch.cat((square(), torch.ones(1, 1, 4, 4)))
    assert drop_mask(masks, 0.75).sum(dim=(1, 2, 3)).tolist() == [1, 4]


def test_nothing_dropped_leaves_the_mask_and_all_dropped_nothing():
    assert drop_mask(square(), 0).equal(square())
    assert not drop_mask(square(), 1).any()


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="share: 1.5"):
        drop_mask(square(), 1.5)


def test_the_error_is_what_two_masks_do_not_share():
    assert mask_error(square(), square()) == 0
    assert mask_error(square(), 1 - square()) == 1
    # moved by one pixel: 2 of the pixels are in both, 6 in either
    assert mask_error(shift_mask(square(), right_px=1), square()) == pytest.approx(1 - 2 / 6)
    # of two images one is right and one wrong
    assert mask_error(torch.cat((square(), 1 - square())), square().repeat(2, 1, 1, 1)) == 0.5
    assert math.isnan(mask_error(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)))


def test_portraits_take_other_face_masks_and_stay_as_they_were():
    portraits = tiny_portraits(tiny_backend())
    before = portraits.faces.face_mask.clone()
    changed = with_face_masks(portraits, 1 - before)
    assert changed.faces.face_mask.equal(1 - before) and changed.images is portraits.images
    assert portraits.faces.face_mask.equal(before)


def test_masks_of_another_size_are_refused():
    portraits = tiny_portraits(tiny_backend())
    with pytest.raises(ValueError, match="of its size"):
        with_face_masks(portraits, portraits.faces.face_mask[..., :-1])
