import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from mcpkg.method.reconstruction import masked_reconstruction

LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # the left column of 2x2 cells


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


def test_gradient(generator):
    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    mask = (rand(2, 1, 4, 4) > 0.5).double()
    noise = rand(2, 3, 4, 4)
    assert gradcheck(lambda x: masked_reconstruction(x, noise, mask), rand(2, 3, 4, 4))


def test_a_floor_lets_the_rest_count_a_little():
    # Floor 0.25: the mask is 1 at the left and 0.25 / 1.25 = 0.2 at the right. Prediction and target are multiplied by
    # it: errors of 1 at the left and 5 at the right become 1 and 1, two cells each, over an area of 2 x 1 + 2 x 0.2.
    prediction = torch.tensor([1.0, 5.0]).expand(1, 1, 2, 2)
    loss = masked_reconstruction(prediction, torch.zeros(1, 1, 2, 2), LEFT, floor=0.25)
    assert loss.item() == pytest.approx(4 / 2.4)
