import pytest
import torch

from mcpkg.attention_maps import attention_columns, grid_size


def test_columns_by_hand():
    # One cell, d = 4, scores 0, ln 2, ln 5 after / sqrt(4): softmax 1/8, 2/8, 5/8.
    query = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]])
    key = torch.zeros(1, 1, 3, 4)
    key[0, 0, :, 0] = torch.tensor([1.0, 2.0, 5.0]).log()
    wanted = torch.tensor([[True, False, True]])
    assert attention_columns(query, key, wanted).item() == pytest.approx(6 / 8)
    # A mask that hides the last token: 1/3 of what is left.
    bias = torch.tensor([[[[0.0, 0.0, -1e4]]]])
    assert attention_columns(query, key, wanted, bias).item() == pytest.approx(1 / 3)


def test_columns_pass_gradient(generator):
    def rand(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).float().requires_grad_()

    query, key = rand(1, 2, 4, 3), rand(1, 2, 5, 3)
    wanted = torch.tensor([[False, True, False, True, False]])
    ours = torch.autograd.grad(attention_columns(query, key, wanted).square().sum(), (query, key))
    full = (query @ key.mT / 3**0.5).softmax(-1)[..., [1, 3]].sum(-1)
    for got, expected in zip(ours, torch.autograd.grad(full.square().sum(), (query, key)), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_grid_is_found_by_halving_and_rounding_up():
    assert grid_size(64, height=8, width=8) == (8, 8)
    assert grid_size(4 * 3, height=7, width=6) == (4, 3)
    with pytest.raises(RuntimeError, match="fits no grid"):
        grid_size(13, 8, 8)
