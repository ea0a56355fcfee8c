import json

import pytest
import torch

from mcpkg.factory import report
from mcpkg.factory.exam import Bar
from mcpkg.factory.measure import MEASUREMENTS
from mcpkg.factory.measure_generation import attention_on_part, named_attributes
from mcpkg.world.attributes import ATTRIBUTES, Looks, People

NAN = float("nan")


def test_a_bar_is_a_minimum_or_a_maximum():
    assert Bar("psnr", 30.0, at_least=30.0).passed
    assert not Bar("psnr", 29.9, at_least=30.0).passed
    assert not Bar("seconds", 15.1, at_most=15.0).passed
    assert Bar("only reported", NAN).passed
    assert not Bar("could not be measured", NAN, at_least=0.9).passed


def test_attention_on_half_of_its_part():
    region = torch.zeros(4, 4)
    region[:2] = 1  # 8 of 16 cells
    attention = torch.ones(4, 4)
    attention[0] = 5  # 20 + 4 of the 32 are inside; only the first row is above the mean of 2
    torch.testing.assert_close(attention_on_part(attention, region), torch.tensor([24 / 32, 0.5, 0.5]))


def test_a_few_bright_cells_do_not_cover_a_part():
    region = torch.ones(4, 4)
    attention = torch.zeros(4, 4)
    attention[0, 0] = 1
    inside, _, covered = attention_on_part(attention, region).tolist()
    assert inside == 1.0
    assert covered == pytest.approx(1 / 16)


def test_named_attributes_are_in_the_caption_and_readable_in_the_picture():
    people = People(torch.zeros(3, 24), torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True]))
    looks = Looks(
        torch.cat([
            Looks.of(hair="bob", accessory="hat").codes,
            Looks.of(hair="bald", treatment="noir").codes,
            Looks.of(hair="bald").codes,  # a robot's
        ])
    )  # fmt: skip
    names = [{a for a, yes in zip(ATTRIBUTES, row) if yes} for row in named_attributes(people, looks).tolist()]
    colours = {"garment_colour", "background_colour"}
    assert names[0] == {"hair", "hair_colour", "garment", "accessory", "background"} | colours
    assert names[1] == {"hair", "garment", "background", "treatment"}
    assert names[2] == {"garment", "background"} | colours


@pytest.fixture
def stub(monkeypatch):
    """A report with one measurement of a given value and no models."""

    def install(value: float):
        monkeypatch.setattr(report, "load_backend", lambda name: None)
        monkeypatch.setattr(report, "Exam", lambda backend, prompts: None)
        monkeypatch.setattr(report, "run_measurements", lambda names, exam: [Bar("stub", value, at_least=0.5)])

    return install


@pytest.mark.parametrize(("value", "code"), [(0.6, 0), (0.4, 1), (NAN, 1)])
def test_a_missed_bar_shows_in_the_exit_code(stub, capsys, value, code):
    stub(value)
    with pytest.raises(SystemExit) as stop:
        report.main(only="speed", as_json=True)
    assert stop.value.code == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] == (code == 0)
    assert printed["bars"][0]["value"] == (value if value == value else None)


def test_an_unknown_measurement_raises():
    with pytest.raises(ValueError, match="no measurement named 'basse'. Choose from autoencoder"):
        report.main(only="basse")


def test_the_card_shows_numbers_bars_misses_and_training(tmp_path):
    bars = [Bar("PSNR, dB", 31.25, at_least=30.0), Bar("seconds", 20.0, at_most=15.0)]
    provenance = [{"file": "parser.safetensors", "MiB": "1.50", "recipe": "parser", "seed": "0", "hours": ""}]
    card = report.write_card(bars, provenance, [tmp_path / "model_card" / "world.png"], seconds=120.0)
    assert "| PSNR, dB | 31.250 | >= 30 |  |" in card
    assert "| seconds | 20.000 | <= 15 | **missed** |" in card
    assert "| parser.safetensors | 1.50 | parser | 0 |" in card  # no hours were recorded: no empty column
    assert "(1.5 MiB in all)" in card
    assert "![world](model_card/world.png)" in card


def test_every_model_is_measured():
    assert list(MEASUREMENTS) == [
        "autoencoder",
        "style",
        "base",
        "balanced",
        "attention",
        "identity",
        "parser",
        "restorer",
        "speed",
    ]
