import math

import pytest

from mcpkg.inference.sampling import Sampling


def test_seeds_follow_the_first_unless_they_are_listed():
    assert Sampling(n=3, seed=5).all_seeds == (5, 6, 7)
    assert Sampling(n=3, seed=5, seeds=(7, 100, 5)).all_seeds == (7, 100, 5)
    assert Sampling(n=3, seeds=()).all_seeds == (0, 1, 2)  # none listed


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 0}, "n: 0 is not in 1 to 10,000"),
        ({"n": -2}, "n: -2 is not"),
        ({"steps": 0}, "steps: 0 is not in 1 to 1,000"),
        ({"seeds": (3, 4, 3)}, r"seeds: \[3, 4, 3\]. Give different whole numbers"),
        ({"seeds": (3, -4)}, r"seeds: \[3, -4\]"),
        ({"seed": -1, "n": 2}, "seed: -1. Give different whole numbers, 0 or more"),
        ({"seeds": (2**63,)}, "seeds: "),  # more than a generator takes
        ({"guidance": -1.0}, "guidance: -1.0 is not in 0 to 100"),
        ({"guidance": math.inf}, "guidance: inf"),
        ({"n": 10**12}, "n: 1000000000000 is not in 1 to 10,000"),
        ({"steps": 1001}, "steps: 1001 is not"),
        ({"guidance": 1.0, "negative_prompt": "hat"}, "guidance: 1.0 leaves the negative prompt without effect"),
        ({"lora_scale": math.nan}, "lora_scale: nan"),
        ({"lora_scale": -0.5}, "lora_scale: -0.5"),
        ({"spread": -0.1}, "spread: -0.1"),
        ({"word_norm": -1.0}, "word_norm: -1.0 is not in 0 to"),
        ({"spread": 1.5}, "spread: 1.5 is not in 0 to 1"),
        ({"text_lora_scale": -1.0}, "text_lora_scale: -1.0 is not in 0 to"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_the_name_of_the_field(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_the_ends_of_each_range_are_allowed():
    Sampling(n=1, steps=1, seed=0, seeds=(0, 2**63 - 1), guidance=0.0, lora_scale=0.0, spread=0.0)
    Sampling(guidance=None, spread=1.0)
