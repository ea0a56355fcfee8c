import pytest
import torch

from mcpkg.method.masks import grow_mask, role_region, shift_mask, to_attention_mask, to_latent_mask
from tests.helpers.tiny_backend import DiscParser


def test_a_cell_holds_the_fraction_that_the_mask_covers():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0] = 1  # one of the four pixels of the first cell
    mask[..., 2:, 2:] = 1  # the whole of the last cell
    assert to_latent_mask(mask, 2)[0, 0].tolist() == [[0.25, 0.0], [0.0, 1.0]]


def test_a_part_smaller_than_a_cell_keeps_one():
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 32:64, 32:64] = 1  # a face of 4 x 4 cells of 8
    mask[..., 100, 17] = 1  # an earring: 1 pixel of 64, below the eighth; cell 100 // 8 = 12, 17 // 8 = 2
    shrunk = to_latent_mask(mask, (16, 16))[0, 0]
    assert shrunk[12, 2] == 1 and shrunk.sum() == 16 + 1


def test_a_mask_of_a_single_pixel_is_not_empty():
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 63, 17] = 1
    assert to_latent_mask(mask, 16).sum() == 1


def test_a_thin_line_stays_a_line():
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 63, :] = 1  # 8 pixels of each cell that it crosses: 8 / 64 = 1 / 8, just enough
    assert to_latent_mask(mask, 16)[0, 0, 7].tolist() == [1 / 8] * 16
    # at 4 cells a side it covers 32 of 1024 pixels, too few for a fraction: whole cells instead
    assert to_latent_mask(mask, 4)[0, 0, 1].tolist() == [1.0] * 4


def test_outlines_do_not_grow():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 4:9] = 1  # of four cells of 4 x 4 pixels, one full, two with 1/4, one with 1/16: below the eighth
    assert to_latent_mask(mask, 4)[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 0.25, 0], [0, 0.25, 0, 0], [0, 0, 0, 0]]


def test_faint_values_of_a_parser_are_no_part():
    mask = torch.full((1, 1, 16, 16), 0.01)
    mask[..., :4, :4] = 1
    assert (to_latent_mask(mask, 4) > 0).sum() == 1


def test_empty_masks_are_refused_by_number():
    masks = torch.stack((torch.ones(1, 8, 8), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 1e-3)))
    with pytest.raises(ValueError, match=r"masks \[1, 2\] are empty"):
        to_latent_mask(masks, 4)


def test_masks_do_not_grow():
    with pytest.raises(ValueError, match="it would grow"):
        to_latent_mask(torch.ones(1, 1, 8, 8), 16)


def test_a_placeholder_may_be_attended_to_wherever_the_mask_touches():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0] = 0.7
    assert to_attention_mask(mask, 2)[0, 0].flatten().tolist() == pytest.approx([0.7, 0, 0, 0])


def test_the_two_roles_regions_divide_the_image_between_them():
    face = DiscParser().parse(torch.full((2, 3, 16, 16), 0.5)).face_mask
    assert torch.equal(role_region("source", face), face)
    assert torch.equal(role_region("source", face) + role_region("reference", face), torch.ones(2, 1, 16, 16))


def test_other_roles_have_no_region():
    with pytest.raises(ValueError, match="role: 'prior' unknown. Choose 'source' or 'reference'"):
        role_region("prior", torch.ones(1, 1, 4, 4))


def test_growing_widens_by_pixels_and_narrowing_undoes_it():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 3:6, 3:6] = 1  # 3 x 3
    assert grow_mask(mask, 2).sum() == 7 * 7
    assert grow_mask(mask, -1).sum() == 1
    assert torch.equal(grow_mask(grow_mask(mask, 2), -2), mask)
    assert torch.equal(grow_mask(mask, 0), mask)


def test_a_mask_moves_and_what_leaves_the_frame_is_lost():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, :] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert shift_mask(mask, right_px=2, down_px=1)[0, 0].tolist()[2] == [0, 0, 1, 2]
    assert shift_mask(mask, right_px=-1, down_px=-1)[0, 0].tolist()[0] == [2, 3, 4, 0]
    assert shift_mask(mask, down_px=3).sum() == 0
