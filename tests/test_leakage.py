import math

import pytest
import torch
from tests.tiny import TEXT_LENGTH, tiny_unet

from mcpkg.attention import capture_attention
from mcpkg.leakage import LeakageRow, area_outside, attention_mass, leakage, leakage_rows, mean_leakage

# Two heads of 2x2 cells; the region is the left column.
MAP = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]], [[0.0, 0.5], [0.0, 0.0]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_leakage_by_hand():
    # 0.3 of 0.8 lies on the right; all of the second head does.
    torch.testing.assert_close(leakage(MAP, LEFT), torch.tensor([[0.375, 1.0]]))


def test_mass_by_hand():
    # (0.4 + 0.1) over two cells; nothing.
    torch.testing.assert_close(attention_mass(MAP, LEFT), torch.tensor([[0.25, 0.0]]))


def test_even_attention_leaks_as_much_as_there_is_area_outside():
    region = torch.zeros(1, 1, 8, 8)
    region[..., :3, :5] = 1
    assert area_outside(region).item() == pytest.approx(1 - 15 / 64)
    # Also on a coarser grid, whose cells the region's edge cuts.
    torch.testing.assert_close(leakage(torch.full((1, 1, 4, 4), 0.02), region), 1 - torch.full((1, 1), 15 / 64))


def test_leakage_does_not_see_a_token_fade_but_mass_does():
    torch.testing.assert_close(leakage(0.001 * MAP, LEFT), leakage(MAP, LEFT))
    torch.testing.assert_close(attention_mass(0.001 * MAP, LEFT), 0.001 * attention_mass(MAP, LEFT))


def test_a_map_without_attention_has_no_leakage():
    assert leakage(torch.zeros(1, 1, 2, 2), LEFT).isnan().all()


def capture(keep, heads=None):
    rng = torch.Generator().manual_seed(0)
    tokens = torch.zeros(3, TEXT_LENGTH, dtype=torch.bool)
    tokens[0, 3] = tokens[2, 5] = True  # the second prompt lacks the token
    unet = tiny_unet()
    with torch.no_grad(), capture_attention(unet, {"source": tokens}, keep=keep, heads=heads) as store:
        for t in (20, 10):
            sample = torch.randn(3, unet.config.in_channels, 8, 8, generator=rng)
            unet(sample, t, torch.randn(3, TEXT_LENGTH, 16, generator=rng))
    return store


def test_rows_tell_token_sample_layer_head_and_timestep():
    region = torch.zeros(3, 1, 32, 32)
    region[0, :, :16], region[1:] = 1, 1  # half, then all
    rows = leakage_rows(capture("all"), {"source": region})
    assert len(rows) == 2 * 7 * 2 * 2  # timesteps, layers, samples with the token, heads
    assert {row.sample for row in rows} == {0, 2}
    assert {row.head for row in rows} == {0, 1} and {row.size for row in rows} == {4, 8}
    assert {row.timestep for row in rows} == {20, 10}
    assert {(row.sample, row.area_outside) for row in rows} == {(0, 0.5), (2, 0.0)}
    assert all(0 < row.leakage < 1 if row.sample == 0 else row.leakage < 1e-6 for row in rows)


def test_a_running_mean_has_no_timestep_and_chosen_heads_keep_their_numbers():
    rows = leakage_rows(capture("mean", heads=[1]), {"source": torch.ones(3, 1, 8, 8)})
    assert {row.timestep for row in rows} == {None}
    assert {row.head for row in rows} == {1}


def test_rows_are_averaged_by_any_field():
    def row(token, timestep, value):
        return LeakageRow(token, 0, "layer", 8, 0, timestep, value, 0.5, 2 * value)

    rows = [row("source", 10, 0.2), row("source", 20, 0.4), row("reference", 10, 0.6), row("reference", 10, math.nan)]
    assert mean_leakage(rows) == [
        {"token": "source", "leakage": pytest.approx(0.3), "area_outside": 0.5, "mass": pytest.approx(0.6), "n": 2},
        {"token": "reference", "leakage": 0.6, "area_outside": 0.5, "mass": 1.2, "n": 1},
    ]
    by_timestep = mean_leakage(rows, by=("timestep",))
    assert [(group["timestep"], group["n"]) for group in by_timestep] == [(10, 2), (20, 1)]


def test_a_token_without_a_region_is_an_error():
    with pytest.raises(ValueError, match=r"none for \['source'\]"):
        leakage_rows(capture("mean"), {"face": torch.ones(3, 1, 8, 8)})
