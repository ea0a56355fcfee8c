import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from mcpkg.method.attention_losses import attention_fraction
from mcpkg.method.identity import identity_loss
from mcpkg.method.reconstruction import masked_reconstruction
from mcpkg.method.refocusing import attention_refocusing, mean_over_grids, scale_map

# One head of 2x2 cells; the token may look at the left column.
MAP = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_only_masked_pixels_count():
    noise = torch.zeros(1, 2, 2, 2)
    wrong_outside = torch.tensor([0.0, 9.0]).expand(1, 2, 2, 2)
    assert masked_reconstruction(wrong_outside, noise, LEFT).item() == 0


def test_reconstruction_by_hand():
    # Two channels, two masked pixels each: errors 1, 3 in the first and 0, 0 in the second: (1 + 9) / 4.
    noise = torch.zeros(1, 2, 2, 2)
    prediction = torch.tensor([[[[1.0, 7.0], [3.0, 7.0]], [[0.0, 7.0], [0.0, 7.0]]]])
    assert masked_reconstruction(prediction, noise, LEFT).item() == 2.5


def test_shapes_are_checked_at_run_time():
    with pytest.raises(TypeCheckError):
        masked_reconstruction(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2), LEFT)


def test_one_sample_does_not_change_another_and_a_small_mask_weighs_as_much():
    small, large = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    small[..., 0, 0] = 1
    losses = masked_reconstruction(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.cat([small, large]))
    assert losses.tolist() == [1, 1]


@pytest.mark.parametrize(
    "embedding, loss", [([2.0, 0.0], 0), ([0.0, 3.0], 1), ([-1.0, 0.0], 2), ([1.0, 1.0], 1 - 0.5**0.5)]
)
def test_identity_by_hand(embedding, loss):
    got = identity_loss(torch.tensor([embedding]), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([float(loss)]))


def test_scales_by_hand():
    # Divided by 0.4; (A - 0.1) / 0.3; unchanged.
    torch.testing.assert_close(scale_map(MAP, "max"), torch.tensor([[[[1.0, 0.5], [0.25, 0.25]]]]))
    torch.testing.assert_close(scale_map(MAP, "minmax"), torch.tensor([[[[1.0, 1 / 3], [0.0, 0.0]]]]))
    assert scale_map(MAP, "none") is MAP
    with pytest.raises(ValueError, match="'softmax' unknown"):
        scale_map(MAP, "softmax")


@pytest.mark.parametrize(
    "scale, loss",
    [
        ("max", (0.5**2 + 0.25**2) / 2),  # the right column of the scaled map, over its two cells
        ("minmax", (1 / 9 + 0) / 2),
        ("none", (0.2**2 + 0.1**2) / 2),
    ],
)
def test_refocusing_by_hand(scale, loss):
    torch.testing.assert_close(attention_refocusing(MAP, LEFT, scale), torch.tensor([loss]))


def test_attention_inside_the_mask_is_free():
    elsewhere = MAP.clone()
    elsewhere[..., 1, 0] = 0.3  # inside, and below the maximum
    assert torch.equal(attention_refocusing(MAP, LEFT), attention_refocusing(elsewhere, LEFT))
    assert attention_refocusing(MAP, torch.ones_like(LEFT)).item() == 0


def test_heads_are_scaled_each_by_itself_and_averaged():
    # The second head is the first times 1/10: the same loss under "max", so that the mean is the same too.
    both = torch.cat([MAP, 0.1 * MAP], dim=1)
    torch.testing.assert_close(attention_refocusing(both, LEFT), attention_refocusing(MAP, LEFT))


def test_a_part_smaller_than_a_cell_still_allows_its_cell():
    # On a map of one row of two cells the right half of the mask has a single pixel of sixteen.
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0, 7] = 1
    maps = torch.tensor([[[[0.0, 1.0]]]])
    assert attention_refocusing(maps, mask).item() == 0
    assert attention_fraction(maps, mask).item() == 0


def test_extinguishing_a_token_lowers_only_the_losses_that_can_be_cheated():
    # Slope of the loss when the whole map is multiplied by s, at s = 1. Under "minmax", with min 0.1 and range 0.3
    # held, the right column is (0.2 s - 0.1) / 0.3 and (0.1 s - 0.1) / 0.3: slope (2 * 1/3 * 2/3 + 0) / 2 = 2/9.
    slopes = {}
    for scale in ("max", "minmax", "none"):
        s = torch.ones((), requires_grad=True)
        attention_refocusing(s * MAP, LEFT, scale).backward()
        slopes[scale] = s.grad.item()
    assert slopes["max"] == pytest.approx(0, abs=1e-6)
    assert slopes["minmax"] == pytest.approx(2 / 9)
    assert slopes["none"] == pytest.approx(2 * (0.2**2 + 0.1**2) / 2)
    torch.testing.assert_close(attention_fraction(0.01 * MAP, LEFT), attention_fraction(MAP, LEFT))


def test_share_by_hand():
    # 0.5 of 0.8 lies in the left column: (1 - 0.625)^2.
    torch.testing.assert_close(attention_fraction(MAP, LEFT), torch.tensor([0.375**2]))


def test_grids_are_averaged_and_the_layers_of_one_count_as_its_heads():
    coarse = torch.tensor([[[[0.5, 0.5]]]])  # one row of two cells: scaled 1 outside, loss 1
    fine = (0.5**2 + 0.25**2) / 2
    pairs = [("fine", MAP), ("coarse", coarse), ("inside", MAP * LEFT)]  # the last: 0 outside, loss 0
    expected = ((fine + 0) / 2 + 1) / 2
    torch.testing.assert_close(mean_over_grids(attention_refocusing, pairs, LEFT), torch.tensor([expected]))
    unscaled = mean_over_grids(attention_refocusing, pairs[:2], LEFT, scale="none")
    torch.testing.assert_close(unscaled, torch.tensor([((0.2**2 + 0.1**2) / 2 + 0.25) / 2]))


def test_gradients(generator):
    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    mask = (rand(2, 1, 4, 4) > 0.5).double()
    noise = rand(2, 3, 4, 4)
    assert gradcheck(lambda x: masked_reconstruction(x, noise, mask), rand(2, 3, 4, 4))
    target = rand(2, 5)
    assert gradcheck(lambda x: identity_loss(x, target), rand(2, 5))
    assert gradcheck(lambda x: attention_fraction(x, mask), rand(2, 2, 4, 4))
    for scale in ("max", "none"):  # "minmax" is detached on purpose: not the gradient of its value
        assert gradcheck(lambda x: attention_refocusing(x, mask, scale), rand(2, 2, 4, 4))
