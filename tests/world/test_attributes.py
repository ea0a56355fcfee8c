import pytest
import torch

from mcpkg.world.attributes import Looks, skin_to_tone, tone_to_skin


def test_the_ten_tones_span_the_scale():
    # skin -1 is tone 1, 1 is tone 10; steps of 2/9 between.
    assert skin_to_tone(torch.linspace(-1, 1, 10)).tolist() == pytest.approx(list(range(1, 11)))
    assert [tone_to_skin(tone) for tone in range(1, 11)] == pytest.approx(torch.linspace(-1, 1, 10).tolist())


def test_unknown_attributes_and_values_raise():
    with pytest.raises(ValueError, match="unknown attribute 'shoes'"):
        Looks.of(shoes="red")
    with pytest.raises(ValueError, match="hair: unknown value 'mohawk'"):
        Looks.of(hair="mohawk")
