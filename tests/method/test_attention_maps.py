import pytest
import torch

from mcpkg.method.attention_maps import KEEP, AttentionMaps, attention_columns, grid_size


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


def one_pass(one, two, pair):
    """Two layers of one grid of one cell, and one of two cells, of one head and prompt each."""
    cells = {"a": [one], "b": [two], "c": pair}
    return {"source": {layer: torch.tensor([[[row]]]) for layer, row in cells.items()}}


PASSES = ((20, (0.2, 0.4, [0.1, 0.3])), (10, (0.6, 0.0, [0.3, 0.1])))


def captured(keep, *passes):
    attention = AttentionMaps({"source": torch.tensor([[True]])}, keep=keep)
    for timestep, values in passes:
        attention.add(one_pass(*values), timestep)
    return attention


def test_it_is_empty_before_the_first_pass():
    attention = captured("all")
    assert (attention.maps, attention.passes, attention.timesteps, attention.roles) == ({}, 0, (), ("source",))


def test_layers_of_one_grid_come_together_as_heads():
    grids = captured("last", PASSES[0]).by_grid("source")
    assert {grid: maps.shape for grid, maps in grids.items()} == {(1, 1): (1, 1, 2, 1, 1), (1, 2): (1, 1, 1, 1, 2)}
    assert grids[1, 1].flatten().tolist() == pytest.approx([0.2, 0.4])
    assert grids[1, 2].flatten().tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    "keep, reduce, expected",
    [
        # by layer and pass: a 0.2, 0.6; b 0.4, 0.0
        ("mean", "mean", 0.3),  # of 0.4 and 0.2
        ("mean", "max", 0.4),
        ("max", "mean", 0.5),  # of 0.6 and 0.4
        ("max", "max", 0.6),
        ("last", "mean", 0.3),
        ("last", "max", 0.6),
        ("all", "mean", 0.3),  # of all four
        ("all", "max", 0.6),
    ],
)
def test_passes_and_layers_are_reduced_by_mean_or_maximum(keep, reduce, expected):
    attention = captured(keep, *PASSES)
    assert attention.heatmap("source", reduce, size=1).item() == pytest.approx(expected)
    assert attention.passes == 2
    # a reduction over passes has no timestep of its own
    assert attention.timesteps == {"last": ((10,),), "all": ((20,), (10,))}.get(keep, (None,))


def test_only_the_last_pass_is_kept_with_its_gradient():
    maps = one_pass(0.2, 0.4, [0.1, 0.3])
    maps["source"]["a"].requires_grad_()
    for keep in KEEP:
        attention = AttentionMaps({"source": torch.tensor([[True]])}, keep=keep)
        attention.add(maps, 20)
        assert attention.heatmap("source", size=1).requires_grad == (keep == "last")


def test_a_later_pass_changes_no_map_that_was_read_before():
    for keep in KEEP:
        attention = captured(keep, PASSES[0])
        before = attention.maps["source"]["a"]
        attention.add(one_pass(*PASSES[1][1]), 10)
        assert before.flatten().tolist() == pytest.approx([0.2])


def test_steps_that_come_after_a_look_are_put_at_the_end():
    attention = captured("all", PASSES[0])
    assert attention.maps["source"]["a"].shape[1] == 1
    attention.add(one_pass(*PASSES[1][1]), 10)
    assert attention.maps["source"]["a"].flatten().tolist() == pytest.approx([0.2, 0.6])
    attention.add(one_pass(*PASSES[0][1]), 5)
    assert attention.maps["source"]["a"].flatten().tolist() == pytest.approx([0.2, 0.6, 0.2])
    assert attention.timesteps == ((20,), (10,), (5,))


@pytest.mark.parametrize("keep", ["mean", "max", "all"])
def test_passes_of_different_sizes_do_not_fit_together(keep):
    attention = captured(keep, PASSES[0])
    wide = {"source": {layer: torch.ones(1, 1, 1, 2) for layer in "abc"}}
    with pytest.raises(ValueError, match=r"a: a map of \(1, 2\) cells after one of \(1, 1\)"):
        attention.add(wide, 10)
    last = captured("last", PASSES[0])
    last.add(wide, 10)
    assert last.heatmap("source").shape == (1, 1, 2)


# Of three prompts the first and the last hold <v1>, the last two <v2>. Two layers have a grid of 1 x 2 cells, "fine"
# and "other", and one of 1 x 1, "coarse"; each has two heads; there are two passes. A value of the source shows which
# one it is: k + step / 10 + head / 100 for the k-th prompt that holds <v1>, k = 1 or 2. It is halved in the second
# cell, and halved again in the layer "other".
HELD = {"source": torch.tensor([[True], [False], [True]]), "reference": torch.tensor([[False], [True], [True]])}


def filled(keep="all", heads=None):
    attention = AttentionMaps(HELD, heads, keep)
    for step, timesteps in enumerate(([900, 800, 700], [90, 80, 70])):
        first = torch.tensor([[k + step / 10 + head / 100 for head in (0, 1)] for k in (1, 2)])[:, :, None, None]
        fine = torch.cat((first, first / 2), dim=3)  # r heads 1 2
        source = {"fine": fine, "coarse": first, "other": fine / 2}
        reference = {layer: 0 * maps for layer, maps in source.items()}
        attention.add({"source": source, "reference": reference}, torch.tensor(timesteps))
    return attention


def test_it_tells_what_was_captured():
    attention = filled(heads=[4, 7])
    assert attention.roles == ("source", "reference") and attention.layers == ("fine", "coarse", "other")
    assert attention.rows["source"].tolist() == [True, False, True] and attention.heads == [4, 7]
    assert attention.timesteps == ((900, 800, 700), (90, 80, 70)) and attention.passes == 2
    assert {layer: maps.shape for layer, maps in attention.maps["source"].items()} == {
        "fine": (2, 2, 2, 1, 2), "coarse": (2, 2, 2, 1, 1), "other": (2, 2, 2, 1, 2),
    }  # fmt: skip


def test_all_layers_of_the_finest_grid_are_selected_unless_another_is_named():
    attention = filled()
    fine, other = attention.maps["source"]["fine"], attention.maps["source"]["other"]
    assert torch.equal(attention.select("source"), torch.cat((fine, other), dim=2))  # prompts steps heads h w
    assert torch.equal(attention.select("source", size=2), attention.select("source"))
    assert torch.equal(attention.select("source", size=1), attention.maps["source"]["coarse"])
    assert attention.select("reference").max() == 0


def test_a_layer_is_selected_whatever_its_grid():
    attention = filled()
    for layer in attention.layers:
        assert torch.equal(attention.select("source", layer=layer), attention.maps["source"][layer])
        assert torch.equal(attention.select("source", layer=layer, size=2), attention.maps["source"][layer])


def test_a_head_is_selected_in_every_layer_and_a_timestep_by_the_first_prompt():
    attention = filled()
    one = attention.select("source", head=1, timestep=90)
    assert one.shape == (2, 1, 2, 1, 2)  # one step; head 1 of "fine", then of "other"
    # Second prompt that holds it, step 1, head 1: 2.11 and half of it in "fine"; half of both in "other".
    assert one[1, 0, :, 0].flatten().tolist() == pytest.approx([2.11, 2.11 / 2, 2.11 / 2, 2.11 / 4])
    assert torch.equal(attention.select("source", timestep=900), attention.select("source")[:, :1])
    assert torch.equal(attention.select("source", head=0, layer="fine"), attention.maps["source"]["fine"][:, :, :1])


def test_a_heatmap_reduces_over_what_is_not_chosen():
    attention = filled()
    # First prompt, over steps and heads: (1.00 + 1.01 + 1.10 + 1.11) / 4 = 1.055 in "coarse"; with "other", the half of
    # "fine", 0.75 of it.
    assert attention.heatmap("source", size=1)[0].item() == pytest.approx(1.055)
    assert attention.heatmap("source")[0, 0].tolist() == pytest.approx([0.75 * 1.055, 0.75 * 1.055 / 2])
    assert attention.heatmap("source", "max")[:, 0, 0].tolist() == pytest.approx([1.11, 2.11])
    chosen = attention.heatmap("source", layer="other", head=0, timestep=90)
    assert chosen[:, 0, 0].tolist() == pytest.approx([1.1 / 2, 2.1 / 2])


def test_an_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="reduce: 'median' unknown. Choose 'mean' or 'max'"):
        filled().heatmap("source", "median")


def test_a_chosen_timestep_is_not_in_a_reduction_over_passes():
    with pytest.raises(ValueError, match=r"timestep: 900 unknown. Choose from \[None\]"):
        filled("mean").select("source", timestep=900)
    assert filled("last").select("source", timestep=90).shape[1] == 1


@pytest.mark.parametrize(
    "role, chosen, message",
    [
        ("<v1>", {}, r"role: '<v1>' unknown. Choose from \['source', 'reference'\]"),
        ("source", {"layer": "up"}, r"layer: 'up' unknown. Choose from \['fine', 'coarse', 'other'\]"),
        ("source", {"size": 4}, r"size: no captured layer has a grid of 4. Captured: \[1, 2\]"),
        ("source", {"head": 2}, "head: 2 unknown. Choose from 0 to 1"),
        ("source", {"head": -1}, "head: -1 unknown. Choose from 0 to 1"),
        ("source", {"timestep": 800}, r"timestep: 800 unknown. Choose from \[900, 90\]"),
    ],
)
def test_what_was_not_captured_is_named(role, chosen, message):
    with pytest.raises(ValueError, match=message):
        filled().heatmap(role, **chosen)


def test_the_number_of_heads_is_that_of_the_layer_or_of_all_layers_of_the_grid():
    attention = AttentionMaps({"source": torch.tensor([[True]])})
    shapes = {"few": (1, 2, 4, 4), "many": (1, 5, 4, 4), "coarse": (1, 3, 2, 2)}
    attention.add({"source": {layer: torch.ones(shape) for layer, shape in shapes.items()}}, 0)
    assert [attention.head_count(layer) for layer in ("few", "many", "coarse")] == [2, 5, 3]
    assert attention.head_count() == attention.head_count(size=4) == 2
    assert attention.head_count(size=2) == 3
    assert attention.select("source", head=1).shape[2] == 2  # of either layer
    with pytest.raises(ValueError, match="head: 2 unknown"):
        attention.select("source", head=2)


@pytest.mark.parametrize("keep", KEEP)
def test_batches_of_prompts_are_concatenated(keep):
    first, second = filled(keep, heads=[4, 7]), filled(keep, heads=[4, 7])
    for maps in second.maps["source"].values():
        maps += 5
    both = AttentionMaps.concatenated([first, second])
    assert both.rows["source"].tolist() == [True, False, True] * 2
    assert both.rows["reference"].tolist() == [False, True, True] * 2
    assert (both.keep, both.heads, both.layers) == (keep, [4, 7], first.layers)
    for layer in both.layers:
        expected = torch.cat((first.maps["source"][layer], second.maps["source"][layer]))
        assert torch.equal(both.maps["source"][layer], expected)
    assert both.timesteps == tuple(of_rows and of_rows * 2 for of_rows in first.timesteps)
    expected = torch.cat((first.heatmap("source"), second.heatmap("source")))
    assert torch.equal(both.heatmap("source"), expected)


def test_one_batch_concatenated_is_itself():
    one = filled()
    both = AttentionMaps.concatenated([one])
    assert both.timesteps == one.timesteps and torch.equal(both.select("source"), one.select("source"))
