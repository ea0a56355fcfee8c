import pytest
import torch
from torch.autograd import gradcheck

from mcpkg.method.attention_losses import (
    attention_fraction,
    authors_refocusing,
    break_a_scene,
    fastcomposer,
    mix_of_show,
)
from mcpkg.method.config import REFOCUSING_FORMS

# Two heads of 2x2 cells, with mean 0.4, 0.2 over 0.1, 0.1; the token should look at the left column.
MAPS = torch.tensor([[[[0.6, 0.3], [0.1, 0.0]], [[0.2, 0.1], [0.1, 0.2]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_every_name_has_a_loss_and_every_loss_a_name():
    losses = {name: REFOCUSING_FORMS[name] for name in REFOCUSING_FORMS.names}
    assert tuple(REFOCUSING_FORMS) == REFOCUSING_FORMS.names  # as the source is read and as it runs
    assert len(set(losses.values())) == len(losses)
    assert losses["fraction"] is attention_fraction and losses["break_a_scene"] is break_a_scene
    with pytest.raises(ValueError, match="refocusing form 'both' unknown. Choose from .*'fastcomposer'"):
        REFOCUSING_FORMS["both"]


@pytest.mark.parametrize("form", REFOCUSING_FORMS.names)
def test_every_form_is_finite_at_least_minus_one_and_has_one_value_per_sample(form, generator):
    loss = REFOCUSING_FORMS[form]
    nowhere = torch.zeros(1, 3, 4, 4)
    maps = torch.cat([torch.rand(3, 3, 4, 4, generator=generator), nowhere]).requires_grad_()
    some = (torch.rand(1, 1, 8, 8, generator=generator) > 0.5).float()
    masks = torch.cat([some, torch.ones_like(some), torch.zeros_like(some), some])  # also all and nothing
    losses = loss(maps, masks)
    assert losses.shape == (4,) and losses.isfinite().all() and (losses >= -1).all()
    for i in range(4):  # one sample does not change another
        torch.testing.assert_close(loss(maps[[i]], masks[[i]])[0], losses[i])
    losses.sum().backward()
    assert maps.grad.isfinite().all() and maps.grad[0].any()


@pytest.mark.parametrize("form", REFOCUSING_FORMS.names)
def test_every_form_is_lower_for_attention_inside_its_mask(form):
    inside, outside = 0.5 * LEFT, 0.5 * (1 - LEFT)
    assert REFOCUSING_FORMS[form](inside, LEFT) < REFOCUSING_FORMS[form](outside, LEFT)


def test_the_authors_loss_by_hand():
    # A row of two cells becomes 64 that fall from 1 to 0: 16 of 1, then 31.5/32, 30.5/32, ... 0.5/32, then 16 of 0.
    # The right half is outside: 15.5/32 ... 0.5/32, then 0. Sum of squares 1364 / 32^2, over 64 cells, inside as well.
    falling, rising = torch.tensor([[[[0.4, 0.2]]]]), torch.tensor([[[[0.2, 0.3]]]])
    left = torch.tensor([[[[1.0, 0.0]]]])
    torch.testing.assert_close(authors_refocusing(falling, left), torch.tensor([1364 / 32**2 / 64]))
    # A second head that rises alike: their mean is 0.5 everywhere, and it is the mean that is squared.
    torch.testing.assert_close(authors_refocusing(torch.cat([falling, rising], 1), left), torch.tensor([0.5**2 / 2]))


def authors_by_loops(maps, mask, ends=None):
    """The released code's loss for one sample, number by number; `ends`: minimum and maximum of each head's map.

    Args:
        maps: heads -> rows -> numbers.
        mask: rows -> numbers.
    """
    cells, ends = range(64), ends or [None] * len(maps)

    def between(i, n):  # the two cells of n between which the middle of cell i of 64 lies, and how far along
        at = max((i + 0.5) * n / 64 - 0.5, 0.0)
        return int(at), min(int(at) + 1, n - 1), at - int(at)

    scaled, used = [], []
    for head, end in zip(maps, ends, strict=True):
        enlarged = [[0.0] * 64 for _ in cells]
        for i in cells:
            above, below, down = between(i, len(head))
            for j in cells:
                left, right, along = between(j, len(head[0]))
                upper = (1 - along) * head[above][left] + along * head[above][right]
                lower = (1 - along) * head[below][left] + along * head[below][right]
                enlarged[i][j] = (1 - down) * upper + down * lower
        low, high = end or (min(map(min, enlarged)), max(map(max, enlarged)))
        used.append((low, high))
        scaled.append([[(value - low) / (high - low) for value in row] for row in enlarged])
    total = 0.0
    for i in cells:
        for j in cells:
            wanted = mask[i * len(mask) // 64][j * len(mask[0]) // 64]
            mean = sum(1.0 if wanted >= 0.5 else head[i][j] for head in scaled) / len(scaled)
            total += (mean - wanted) ** 2
    return total / 64**2, used


FLOOR = 0.01 / 1.01  # of the masks in the released code


@pytest.mark.parametrize("floor", [0.0, FLOOR])
@pytest.mark.parametrize("side, mask_side", [(2, 2), (3, 8), (16, 64), (4, 128)])
def test_the_authors_loss_is_a_port_of_the_released_code(side, mask_side, floor, generator):
    maps = torch.rand(2, 3, side, side, generator=generator)
    mask = (torch.rand(2, 1, mask_side, mask_side, generator=generator) > 0.5).float().clamp_min(floor)
    expected = [authors_by_loops(maps[i].tolist(), mask[i, 0].tolist())[0] for i in range(2)]
    torch.testing.assert_close(authors_refocusing(maps, mask), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_gradient_of_the_authors_loss_takes_minimum_and_maximum_as_constants(generator):
    maps = torch.rand(1, 2, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(authors_refocusing(maps, LEFT).sum(), maps)
    _, ends = authors_by_loops(maps[0].tolist(), LEFT[0, 0].tolist())
    for at in [(0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 0, 1)]:
        step = torch.zeros(2, 2, 2, dtype=torch.float64)
        step[at] = 0.1  # any step: with the ends held, the loss is a parabola
        up, down = (authors_by_loops((maps[0] + s * step).tolist(), LEFT[0, 0].tolist(), ends)[0] for s in (1, -1))
        assert gradient[0][at].item() == pytest.approx((up - down) / 0.2, abs=1e-6)


def test_the_authors_loss_is_neither_eq_8_nor_eq_8_under_their_scaling(generator):
    maps = torch.rand(1, 3, 16, 16, generator=generator)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    losses = [REFOCUSING_FORMS["mask"](maps, mask, scale).item() for scale in ("max", "detached_minmax")]
    assert all(abs(loss - authors_refocusing(maps, mask).item()) > 0.01 for loss in losses)


def test_break_a_scene_by_hand():
    # The mean over heads by its maximum: 1, 0.5 over 0.25, 0.25. From the mask 0, 0.5 over 0.75, 0.25.
    torch.testing.assert_close(break_a_scene(MAPS, LEFT), torch.tensor([(0.5**2 + 0.75**2 + 0.25**2) / 4]))


def test_mix_of_show_by_hand():
    # The same scaled map outside: 0.5 and 0.25.
    torch.testing.assert_close(mix_of_show(MAPS, LEFT), torch.tensor([0.375]))


def test_fastcomposer_by_hand():
    # Outside minus inside: 0.15 - 0.35 in the first head, 0.15 - 0.15 in the second.
    torch.testing.assert_close(fastcomposer(MAPS, LEFT), torch.tensor([-0.1]))


def test_fraction_by_hand():
    # 0.5 of 0.8 lies in the left column: (1 - 0.625)^2.
    one = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]]]])
    torch.testing.assert_close(attention_fraction(one, LEFT), torch.tensor([0.375**2]))
    # Heads each by itself: 0.7 of 1.0 and 0.3 of 0.6 lie in it.
    torch.testing.assert_close(attention_fraction(MAPS, LEFT), torch.tensor([(0.3**2 + 0.5**2) / 2]))


def test_the_fraction_does_not_fall_when_a_token_is_extinguished():
    torch.testing.assert_close(attention_fraction(0.01 * MAPS, LEFT), attention_fraction(MAPS, LEFT))


def test_a_part_smaller_than_a_cell_still_allows_its_cell():
    # On a map of one row of two cells the right half of the mask has a single pixel of sixteen.
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0, 7] = 1
    assert attention_fraction(torch.tensor([[[[0.0, 1.0]]]]), mask).item() == 0


def test_only_break_a_scene_and_fastcomposer_ask_for_more_inside():
    more = MAPS.clone()
    more[:, :, 1, 0] += 0.1  # inside, and below the maximum
    assert break_a_scene(more, LEFT) < break_a_scene(MAPS, LEFT)
    assert fastcomposer(more, LEFT) < fastcomposer(MAPS, LEFT)
    assert torch.equal(mix_of_show(more, LEFT), mix_of_show(MAPS, LEFT))


@pytest.mark.parametrize("form", ["break_a_scene", "mix_of_show", "fastcomposer"])
def test_one_loss_per_sample_also_where_the_mask_covers_everything(form):
    full = torch.ones_like(LEFT)
    loss = REFOCUSING_FORMS[form]
    both = loss(torch.cat([MAPS, MAPS]), torch.cat([LEFT, full]))
    assert both[0] == loss(MAPS, LEFT)[0]
    # nothing outside: 1 - map; nothing at all; no mean outside, and 0.2 inside
    hands = {"break_a_scene": (0.5**2 + 0.75**2 + 0.75**2) / 4, "mix_of_show": 0.0, "fastcomposer": -0.2}
    assert both[1].item() == pytest.approx(hands[form])


@pytest.mark.parametrize("form", ["break_a_scene", "mix_of_show", "fastcomposer", "fraction"])
def test_gradients(form, generator):
    maps = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).double()
    assert gradcheck(lambda x: REFOCUSING_FORMS[form](x, mask), maps)
