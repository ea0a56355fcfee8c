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


def test_the_lower_half_of_a_mask_is_removed():
    assert drop_mask(square(), 0.5).sum(dim=(0, 1, 3)).tolist() == [0, 2, 0, 0]


def test_a_row_is_removed_partly():
    # of an area of 4, 3 stay: all of the upper row, half of each pixel of the lower
    assert drop_mask(square(), 0.25).sum(dim=(0, 1, 3)).tolist() == [0, 2, 1, 0]


def test_each_mask_loses_a_fraction_of_its_area():
    masks = torch.cat((square(), torch.ones(1, 1, 4, 4)))
    assert drop_mask(masks, 0.75).sum(dim=(1, 2, 3)).tolist() == [1, 4]


def test_nothing_dropped_leaves_the_mask_and_all_dropped_nothing():
    assert drop_mask(square(), 0).equal(square())
    assert not drop_mask(square(), 1).any()


def test_a_fraction_outside_0_to_1_raises():
    with pytest.raises(ValueError, match="fraction: 1.5"):
        drop_mask(square(), 1.5)


def test_the_error_is_one_minus_the_intersection_over_union():
    assert mask_error(square(), square()) == 0
    assert mask_error(square(), 1 - square()) == 1
    # moved by one pixel: 2 of the pixels are in both, 6 in either
    assert mask_error(shift_mask(square(), right_px=1), square()) == pytest.approx(1 - 2 / 6)
    # of two images one is right and one wrong
    assert mask_error(torch.cat((square(), 1 - square())), square().repeat(2, 1, 1, 1)) == 0.5
    assert math.isnan(mask_error(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)))


def test_other_face_masks_give_new_portraits_and_keep_the_old():
    portraits = tiny_portraits(tiny_backend())
    before = portraits.faces.face_mask.clone()
    changed = with_face_masks(portraits, 1 - before)
    assert changed.faces.face_mask.equal(1 - before) and changed.images is portraits.images
    assert portraits.faces.face_mask.equal(before)


def test_masks_of_another_size_raise():
    portraits = tiny_portraits(tiny_backend())
    with pytest.raises(ValueError, match="of its size"):
        with_face_masks(portraits, portraits.faces.face_mask[..., :-1])
