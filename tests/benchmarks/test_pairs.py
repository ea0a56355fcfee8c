import json

import pytest

from benchmarks import pairs
from mcpkg.method.methods import MAGICAPTURE
from tests.helpers.tiny_backend import tiny_backend
from tests.helpers.tiny_folders import write_pair
from tests.helpers.tiny_training import short


@pytest.mark.slow
def test_every_other_method_has_a_difference_to_the_first(monkeypatch, tmp_path, capsys):
    write_pair(tmp_path)
    monkeypatch.setattr(pairs, "load_backend", load_tiny)
    monkeypatch.setattr(pairs, "tune_without_models", lambda backend, method: short(method, steps=1))
    pairs.main(("ann:chic",), ("magicapture", "without-refocusing"), tmp_path / "out", samples=tmp_path, n=1)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["differences"]["minus"].keys() == {"without-refocusing"}
    assert summary["methods"].keys() == {"magicapture", "without-refocusing"}
    assert "magicapture minus without-refocusing: style " in capsys.readouterr().out


def load_tiny(name):
    return tiny_backend()


def test_differences_are_taken_pair_by_pair():
    def rows(*values):
        return [{column: {"mean": value} for column in pairs.COMPARED} for value in values]

    # 0.5 - 0.3 and 0.9 - 0.5: each pair counts for itself, and one without a score not at all.
    difference = pairs.differences_over_pairs(rows(0.5, 0.9, None), rows(0.3, 0.5, 0.1), seed=0)["style"]
    assert difference["mean"] == pytest.approx(0.3) and difference["n"] == 2
    assert difference["low"] == pytest.approx(0.2) and difference["high"] == pytest.approx(0.4)
    nothing = pairs.differences_over_pairs(rows(None), rows(0.3), seed=0)["style"]
    assert nothing == {"mean": None, "low": None, "high": None, "n": 0}


def test_overrides_reach_fields_phases_and_weights():
    changed = pairs.vary(
        MAGICAPTURE,
        '{"lora_rank": 2, "weights": {"identity": 0.5}, "refocusing": {"weight": 0.25, "form": "fraction"}, '
        '"phases": [{"steps": 3}, {}]}',
    )
    assert changed.lora_rank == 2
    assert [phase.steps for phase in changed.phases] == [3, 1500]
    assert [phase.weights.identity for phase in changed.phases] == [0, 0.5]
    assert [(phase.refocusing.weight, phase.refocusing.form) for phase in changed.phases] == [
        (0, "mask"), (0.25, "fraction")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        ({"pairs": ("ann",)}, "'ann' is not subject:style"),
        ({"pairs": ("ann:nobody",)}, "nobody: no such folder"),
        ({"methods": ("magic",)}, "--methods: .'magic'.. Choose from magicapture"),
        ({"methods": ()}, "--methods: none given"),
        ({"n": 0}, "--n: 0 is below 1"),
        ({"overrides": "{"}, "--overrides: Expecting"),
        ({"overrides": '{"phases": [{}]}'}, "--overrides: 1 phases given, MagiCapture has 2"),
        ({"overrides": '{"rank": 2}'}, "--overrides: .*rank"),
        ({"overrides": '{"weights": {"style": 2}}'}, "--overrides: .*style"),
        ({"overrides": '{"refocusing": {"form": "blur"}}'}, "--overrides: Refocusing.form: 'blur' unknown"),
    ],
)
def test_bad_input_is_named_before_anything_is_loaded(tmp_path, monkeypatch, options, message):
    write_pair(tmp_path)
    monkeypatch.setattr(pairs, "run_grid", lambda *_: pytest.fail("loaded"))
    arguments = {"pairs": ("ann:chic",), "methods": ("magicapture",), "out": tmp_path / "out", "samples": tmp_path}
    with pytest.raises((ValueError, OSError), match=message):
        pairs.main(**arguments | options)
