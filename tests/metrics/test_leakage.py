import math

import pytest
import torch

from mcpkg.method.attention_capture import capture_attention
from mcpkg.metrics.leakage import (
    LeakageRow,
    area_outside,
    attention_leakage,
    attention_mass,
    leakage_by_token,
    leakage_rows,
    mean_leakage,
    write_leakage_csv,
)
from tests.helpers.tiny_pipeline import TEXT_LENGTH, tiny_unet

# Two heads of 2x2 cells; the region is the left column.
MAP = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]], [[0.0, 0.5], [0.0, 0.0]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_leakage_by_hand():
    # 0.3 of 0.8 lies on the right; all of the second head does.
    torch.testing.assert_close(attention_leakage(MAP, LEFT), torch.tensor([[0.375, 1.0]]))


def test_mass_by_hand():
    # (0.4 + 0.1) over two cells; nothing.
    torch.testing.assert_close(attention_mass(MAP, LEFT), torch.tensor([[0.25, 0.0]]))


def test_even_attention_leaks_as_much_as_there_is_area_outside():
    region = torch.zeros(1, 1, 8, 8)
    region[..., :3, :5] = 1
    assert area_outside(region).item() == pytest.approx(1 - 15 / 64)
    # Also on a coarser grid, whose cells the region's edge cuts.
    torch.testing.assert_close(
        attention_leakage(torch.full((1, 1, 4, 4), 0.02), region), 1 - torch.full((1, 1), 15 / 64)
    )


def test_leakage_does_not_see_a_token_fade_but_mass_does():
    torch.testing.assert_close(attention_leakage(0.001 * MAP, LEFT), attention_leakage(MAP, LEFT))
    torch.testing.assert_close(attention_mass(0.001 * MAP, LEFT), 0.001 * attention_mass(MAP, LEFT))


def test_without_attention_or_without_a_region_there_is_no_leakage():
    assert attention_leakage(torch.zeros(1, 1, 2, 2), LEFT).isnan().all()
    assert attention_leakage(MAP, torch.zeros_like(LEFT)).isnan().all()


def capture(keep, heads=None):
    rng = torch.Generator().manual_seed(0)
    tokens = torch.zeros(3, TEXT_LENGTH, dtype=torch.bool)
    tokens[0, 3] = tokens[2, 5] = True  # the second prompt lacks the token
    unet = tiny_unet()
    with torch.no_grad(), capture_attention(unet, {"source": tokens}, keep=keep, heads=heads) as maps:
        for t in (20, 10):
            sample = torch.randn(3, unet.config.in_channels, 8, 8, generator=rng)
            unet(sample, t, torch.randn(3, TEXT_LENGTH, 16, generator=rng))
    return maps


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


@pytest.mark.slow
def test_in_training_every_sample_has_its_own_timestep():
    tokens = torch.zeros(2, TEXT_LENGTH, dtype=torch.bool)
    tokens[:, 3] = True
    unet, rng = tiny_unet(), torch.Generator().manual_seed(0)
    with capture_attention(unet, {"source": tokens}) as maps:
        sample = torch.randn(2, unet.config.in_channels, 8, 8, generator=rng)
        unet(sample, torch.tensor([7, 500]), torch.randn(2, TEXT_LENGTH, 16, generator=rng))
    rows = leakage_rows(maps, {"source": torch.ones(2, 1, 8, 8)})
    assert {(row.sample, row.timestep) for row in rows} == {(0, 7), (1, 500)}


def test_every_row_is_of_its_own_step_layer_and_head():
    region = torch.zeros(3, 1, 32, 32)
    region[:, :, :16] = 1
    maps = capture("all", heads=[1])
    rows = leakage_rows(maps, {"source": region})
    assert len({(row.timestep, row.layer, row.sample) for row in rows}) == len(rows) == 2 * 7 * 2
    for row in rows:
        step, prompt = {20: 0, 10: 1}[row.timestep], {0: 0, 2: 1}[row.sample]
        one = maps.maps["source"][row.layer][prompt, step, 0]  # of the only head, number 1
        assert row.attention == pytest.approx(one.mean().item())
        lower = one[len(one) // 2 :]
        assert row.leakage == pytest.approx((lower.sum() / one.sum()).item(), abs=1e-6)


def test_a_running_mean_has_no_timestep_and_chosen_heads_keep_their_numbers():
    rows = leakage_rows(capture("mean", heads=[1]), {"source": torch.ones(3, 1, 8, 8)})
    assert {row.timestep for row in rows} == {None}
    assert {row.head for row in rows} == {1}


def row(token="source", sample=0, timestep=10, leakage=0.5, attention=1.0):
    return LeakageRow(token, sample, "layer", 8, 0, timestep, leakage, 0.5, 2 * leakage, attention)


def test_rows_are_averaged_by_any_field():
    rows = [row(leakage=0.2), row(timestep=20, leakage=0.4)]
    rows += [row("reference", leakage=0.6), row("reference", leakage=math.nan)]
    assert mean_leakage(rows) == [
        {"token": "source", "leakage": pytest.approx(0.3), "area_outside": 0.5, "mass": pytest.approx(0.6), "n": 2},
        {"token": "reference", "leakage": 0.6, "area_outside": 0.5, "mass": 1.2, "n": 1},
    ]
    by_timestep = mean_leakage(rows, by=("timestep",))
    assert [(group["timestep"], group["n"]) for group in by_timestep] == [(10, 2), (20, 1)]


def test_a_head_weighs_as_much_as_it_looks_and_every_sample_alike():
    # First sample: (0.2 * 3 + 1.0 * 1) / 4 = 0.4; second: 0.8, however strong. Their mean: 0.6.
    rows = [row(leakage=0.2, attention=3.0), row(leakage=1.0, attention=1.0)]
    rows += [row(sample=1, leakage=0.8, attention=50.0)]
    assert leakage_by_token(rows) == {"source": pytest.approx(0.6)}


def test_the_number_of_a_token_is_the_leakage_of_its_mean_map():
    region = torch.zeros(3, 1, 32, 32)
    region[..., :12, 5:] = 1
    maps = capture("all")
    fine = [row for row in leakage_rows(maps, {"source": region}) if row.size == 8]
    of_mean = attention_leakage(maps.heatmap("source", size=8)[:, None], region[[0, 2]]).mean()
    assert leakage_by_token(fine)["source"] == pytest.approx(of_mean.item(), abs=1e-6)


def test_the_table_is_written_with_its_columns_and_gaps(tmp_path):
    rows = leakage_rows(capture("mean"), {"source": torch.ones(3, 1, 8, 8)})
    write_leakage_csv([*rows, row(leakage=math.nan)], tmp_path / "new" / "leakage.csv")
    header, first, *_, last = (tmp_path / "new" / "leakage.csv").read_text().splitlines()
    assert header == "token,sample,layer,size,head,timestep,leakage,area_outside,mass,attention"
    assert first.startswith(f"source,0,{rows[0].layer},8,0,,")  # a mean over timesteps has none
    assert float(first.split(",")[-2]) == rows[0].mass  # every digit
    assert last == "source,0,layer,8,0,10,,0.5,,1.0"


def test_a_token_without_a_region_is_an_error():
    with pytest.raises(ValueError, match=r"none for \['source'\]"):
        leakage_rows(capture("mean"), {"face": torch.ones(3, 1, 8, 8)})
    with pytest.raises(ValueError, match="2 for 'source', whose capture had 3 prompts"):
        leakage_rows(capture("mean"), {"source": torch.ones(2, 1, 8, 8)})
