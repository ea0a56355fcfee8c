import pytest
import torch

from mcpkg.method.attention_maps import MapStore, attention_columns, by_grid, grid_size


def test_columns_by_hand():
    # One cell, d = 4, scores 0, ln 2, ln 5 after / sqrt(4): softmax 1/8, 2/8, 5/8.
    query = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]])
    key = torch.zeros(1, 1, 3, 4)
    key[0, 0, :, 0] = torch.tensor([1.0, 2.0, 5.0]).log()
    # Two tokens: one of two vectors, first and last; one in the middle.
    wanted = torch.tensor([[[True, False, True], [False, True, False]]])
    assert attention_columns(query, key, wanted).flatten().tolist() == pytest.approx([6 / 8, 2 / 8])
    # A mask that hides the last vector: 1/3 and 2/3 of what is left.
    bias = torch.tensor([[[[0.0, 0.0, -1e4]]]])
    assert attention_columns(query, key, wanted, bias).flatten().tolist() == pytest.approx([1 / 3, 2 / 3])


def test_columns_pass_gradient(generator):
    def rand(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).float().requires_grad_()

    query, key = rand(1, 2, 4, 3), rand(1, 2, 5, 3)
    wanted = torch.tensor([[[False, True, False, True, False]]])
    ours = torch.autograd.grad(attention_columns(query, key, wanted).square().sum(), (query, key))
    full = (query @ key.mT / 3**0.5).softmax(-1)[..., [1, 3]].sum(-1)
    for got, expected in zip(ours, torch.autograd.grad(full.square().sum(), (query, key)), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_grid_is_found_by_halving_and_rounding_up():
    assert grid_size(64, height=8, width=8) == (8, 8)
    assert grid_size(4 * 3, height=7, width=6) == (4, 3)
    with pytest.raises(RuntimeError, match="fits no grid"):
        grid_size(13, 8, 8)


def named(*values):
    """Two layers of one grid of one cell, and one of two cells, of one head and row each."""
    one, two, (left, right) = values
    cells = {"a": [one], "b": [two], "c": [left, right]}
    return {"source": [(layer, torch.tensor([[[row]]])) for layer, row in cells.items()]}


def store(keep, *passes):
    filled = MapStore({"source": torch.tensor([[True]])}, None, keep)
    for timestep, values in passes:
        filled.add(named(*values), timestep)
    return filled


def test_layers_of_one_grid_come_together_as_heads():
    grids = by_grid(named(0.2, 0.4, (0.1, 0.3))["source"])
    assert grids[1, 1].flatten().tolist() == pytest.approx([0.2, 0.4])
    assert grids[1, 2].flatten().tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    "keep, over, expected",
    [
        # by layer and pass: a 0.2, 0.6; b 0.4, 0.0
        ("mean", "mean", 0.3),  # of 0.4 and 0.2
        ("mean", "max", 0.4),
        ("max", "mean", 0.5),  # of 0.6 and 0.4
        ("max", "max", 0.6),
        ("last", "mean", 0.3),
        ("last", "max", 0.6),
    ],
)
def test_passes_and_layers_are_reduced_by_mean_or_maximum(keep, over, expected):
    filled = store(keep, (20, (0.2, 0.4, (0.1, 0.3))), (10, (0.6, 0.0, (0.3, 0.1))))
    assert getattr(filled, over)("source", 1).item() == pytest.approx(expected)
    assert filled.timesteps == (10,)


def test_passes_of_different_sizes_can_not_be_reduced():
    filled = store("mean", (20, (0.2, 0.4, (0.1, 0.3))))
    with pytest.raises(ValueError, match=r"a: a map of \(1, 2\) cells after one of \(1, 1\)"):
        filled.add({"source": [("a", torch.ones(1, 1, 1, 2))] * 3}, 10)
