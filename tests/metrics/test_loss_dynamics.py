import pytest
import torch

from mcpkg.method.config import REFOCUSING_FORMS, Refocusing
from mcpkg.metrics.loss_dynamics import RATE, refocus

# One head of 2 x 2 cells; the placeholder may be attended to in the left column.
MAPS = torch.tensor([[[[0.5, 0.4], [0.5, 0.2]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_the_gradient_of_eq_8_by_hand():
    # S = none: loss (0.4^2 + 0.2^2) / 2 = 0.1; its derivative by A is A (2 / 2), and A (1 - A) by the score:
    # 0.4 * 0.24 and 0.2 * 0.16, times the weight 2
    result = refocus(MAPS, LEFT, Refocusing(weight=2.0, scale="none"))
    torch.testing.assert_close(result.gradient[0, 0], torch.tensor([[0.0, 0.192], [0.0, 0.064]]))
    assert result.loss == pytest.approx((0.1,))
    assert result.leakage == pytest.approx((0.6 / 1.6,)) and result.mass == pytest.approx((0.5,))


def test_a_step_goes_against_the_gradient():
    # logit(0.4) = -0.405465; a step of RATE * 4 cells * 0.192 lowers it
    result = refocus(MAPS, LEFT, Refocusing(weight=2.0, scale="none"), steps=1)
    expected = torch.tensor(-0.405465 - RATE * 4 * 0.192).sigmoid()
    torch.testing.assert_close(result.maps[0, 0, 0, 1], expected)
    assert len(result.loss) == len(result.leakage) == len(result.mass) == 2
    assert result.leakage[1] < result.leakage[0]


@pytest.mark.parametrize("form", REFOCUSING_FORMS.names)
def test_every_form_lowers_leakage(form, generator):
    maps = torch.rand(1, 3, 8, 8, generator=generator) * 0.4 + 0.05
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    result = refocus(maps, mask, Refocusing(form=form), steps=30)
    assert result.leakage[-1] < result.leakage[0] - 0.05


def test_the_fraction_also_raises_attention_inside(generator):
    maps = torch.rand(1, 3, 8, 8, generator=generator) * 0.2 + 0.05
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    fraction = Refocusing(form="fraction")
    assert refocus(maps, mask, fraction, steps=20).mass[-1] > refocus(maps, mask, fraction).mass[0] + 0.1
    same = refocus(maps, mask, Refocusing(form="mask", scale="detached_minmax"), steps=20)
    assert same.mass[-1] == pytest.approx(same.mass[0])  # min and max are detached: nothing inside is pulled


def test_by_default_it_is_eq_8_with_the_papers_weight():
    default, of_paper = refocus(MAPS, LEFT), refocus(MAPS, LEFT, Refocusing(2.5, "mask", "max"))
    assert torch.equal(default.gradient, of_paper.gradient) and default.loss == of_paper.loss
    assert torch.equal(default.maps, MAPS)  # no step was taken


def test_unknown_forms_are_named():
    with pytest.raises(ValueError, match="break_a_scene"):
        refocus(MAPS, LEFT, Refocusing(form="sharp"))
    with pytest.raises(ValueError, match="steps: -1"):
        refocus(MAPS, LEFT, steps=-1)
