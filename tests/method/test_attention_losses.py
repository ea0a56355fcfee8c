import pytest
import torch
from torch.autograd import gradcheck

from mcpkg.method.attention_losses import break_a_scene, fastcomposer, mix_of_show
from mcpkg.method.config import REFOCUSING_FORMS
from mcpkg.method.refocusing import FORMS, mean_over_grids

# Two heads of 2x2 cells, with mean 0.4, 0.2 over 0.1, 0.1; the token should look at the left column.
MAPS = torch.tensor([[[[0.6, 0.3], [0.1, 0.0]], [[0.2, 0.1], [0.1, 0.2]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_every_form_of_the_weights_has_a_loss():
    assert tuple(FORMS) == REFOCUSING_FORMS


def test_break_a_scene_by_hand():
    # The mean over heads by its maximum: 1, 0.5 over 0.25, 0.25. From the mask 0, 0.5 over 0.75, 0.25.
    torch.testing.assert_close(break_a_scene(MAPS, LEFT), torch.tensor([(0.5**2 + 0.75**2 + 0.25**2) / 4]))


def test_mix_of_show_by_hand():
    # The same scaled map outside: 0.5 and 0.25.
    torch.testing.assert_close(mix_of_show(MAPS, LEFT), torch.tensor([0.375]))


def test_fastcomposer_by_hand():
    # Outside minus inside: 0.15 - 0.35 in the first head, 0.15 - 0.15 in the second.
    torch.testing.assert_close(fastcomposer(MAPS, LEFT), torch.tensor([-0.1]))


def test_only_break_a_scene_and_fastcomposer_ask_for_more_inside():
    more = MAPS.clone()
    more[:, :, 1, 0] += 0.1  # inside, and below the maximum
    assert break_a_scene(more, LEFT) < break_a_scene(MAPS, LEFT)
    assert fastcomposer(more, LEFT) < fastcomposer(MAPS, LEFT)
    assert torch.equal(mix_of_show(more, LEFT), mix_of_show(MAPS, LEFT))


@pytest.mark.parametrize("form", ["break_a_scene", "mix_of_show", "fastcomposer"])
def test_one_loss_per_sample_also_where_the_mask_covers_everything(form):
    full = torch.ones_like(LEFT)
    both = FORMS[form](torch.cat([MAPS, MAPS]), torch.cat([LEFT, full]))
    assert both[0] == FORMS[form](MAPS, LEFT)[0]
    # nothing outside: 1 - map; nothing at all; no mean outside, and 0.2 inside
    hands = {"break_a_scene": (0.5**2 + 0.75**2 + 0.75**2) / 4, "mix_of_show": 0.0, "fastcomposer": -0.2}
    assert both[1].item() == pytest.approx(hands[form])


def test_layers_of_one_grid_are_averaged_before_the_map_is_scaled():
    pairs = [("first", MAPS[:, :1]), ("second", MAPS[:, 1:])]
    torch.testing.assert_close(mean_over_grids(break_a_scene, pairs, LEFT), break_a_scene(MAPS, LEFT))


@pytest.mark.parametrize("form", ["break_a_scene", "mix_of_show", "fastcomposer"])
def test_gradients(form, generator):
    maps = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).double()
    assert gradcheck(lambda x: FORMS[form](x, mask), maps)
