import pytest
import torch

from mcpkg.factory import precision
from mcpkg.factory.precision import faster_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bf16_s", "faster"), [(0.2, "bf16"), (0.5, "fp32")])
def test_the_faster_precision_is_chosen(monkeypatch, bf16_s, faster):
    """A step takes 0.3 s in fp32, by a clock that only steps move."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    now = [0.0]

    def take_step():
        now[0] += bf16_s if torch.is_autocast_enabled("cpu") else 0.3

    assert faster_precision(take_step, CPU, clock=lambda: now[0]) == faster


def test_the_first_step_of_each_is_not_timed(monkeypatch):
    """It may load data or compile: here it takes ten seconds in bf16, the later ones 0.2 s."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    now, first = [0.0], [10.0]

    def take_step():
        now[0] += (first.pop() if first else 0.2) if torch.is_autocast_enabled("cpu") else 0.3

    assert faster_precision(take_step, CPU, clock=lambda: now[0]) == "bf16"


def test_without_instructions_for_bfloat16_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert faster_precision(lambda: pytest.fail("measured"), CPU) == "fp32"
