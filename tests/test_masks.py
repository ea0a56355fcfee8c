import pytest
import torch

from mcpkg.masks import reference_mask, source_mask, to_latent_mask
from tests.tiny_backend import DiscParser


def test_a_cell_holds_the_share_that_the_mask_covers():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, 0] = 1  # one of the four pixels of the first cell
    mask[..., 2:, 2:] = 1  # the whole of the last cell
    assert to_latent_mask(mask, 2)[0, 0].tolist() == [[0.25, 0.0], [0.0, 1.0]]


def test_small_parts_are_kept():
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 63, 17] = 1
    assert to_latent_mask(mask, (16, 16)).sum() == pytest.approx(1 / 64)  # one pixel of 8 x 8


def test_empty_masks_are_refused_by_number():
    masks = torch.stack((torch.ones(1, 8, 8), torch.zeros(1, 8, 8)))
    with pytest.raises(ValueError, match=r"masks \[1\] are empty"):
        to_latent_mask(masks, 4)


def test_masks_do_not_grow():
    with pytest.raises(ValueError, match="it would grow"):
        to_latent_mask(torch.ones(1, 1, 8, 8), 16)


def test_the_two_masks_share_the_image_between_them():
    faces = DiscParser().parse(torch.full((2, 3, 16, 16), 0.5))
    assert torch.equal(source_mask(faces), faces.face_mask)
    assert torch.equal(source_mask(faces) + reference_mask(faces), torch.ones(2, 1, 16, 16))
