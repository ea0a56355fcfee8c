import json
from dataclasses import replace

import pytest

from benchmarks import pairs
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.util.images import save_image
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


@pytest.fixture
def samples(monkeypatch, tmp_path):
    """A subject and a style, and a list of the numbers of images asked for in each training."""
    for seed, folder in enumerate(("subjects/ann", "styles/chic")):
        for number, image in enumerate(tiny_portraits(tiny_backend(), 2, seed=seed).images):
            save_image(image, tmp_path / folder / f"{number}.png")
    trained = []
    compare = pairs.compare_methods

    def quick_backend(name):
        backend = tiny_backend()
        backend.tune = lambda method: replace(method, phases=tuple(replace(p, steps=1) for p in method.phases))
        return backend

    def counted(*arguments):
        trained.append(arguments[5].n)
        return compare(*arguments)

    monkeypatch.setattr(pairs, "load_backend", quick_backend)
    monkeypatch.setattr(pairs, "compare_methods", counted)
    return tmp_path, trained


@pytest.mark.slow
def test_a_pair_is_trained_again_only_under_other_settings(samples):
    folder, trained = samples

    def run(**options):
        pairs.main(("ann:chic",), ("magicapture",), folder / "out", samples=folder, **options)

    run(n=1)
    run(n=1)
    assert trained == [1]
    run(n=2)
    run(n=2, overrides='{"lora_rank": 2}')
    assert trained == [1, 2, 2]
    scores = json.loads((folder / "out" / "ann-chic-magicapture-0.json").read_text())
    assert scores["settings"]["n"] == scores["n_images"] == 2
    assert scores["settings"]["method"]["lora_rank"] == 2
    assert (folder / "out" / "summary.json").is_file()


@pytest.mark.slow
def test_every_pair_leaves_a_sheet_and_every_other_method_a_difference(samples, capsys):
    folder, _ = samples
    methods = ("magicapture", "without-refocusing")
    pairs.main(("ann:chic",), methods, folder / "out", samples=folder, n=1)
    assert all((folder / "out" / f"ann-chic-{method}-0.png").is_file() for method in methods)
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["differences"]["minus"].keys() == {"without-refocusing"}
    assert "magicapture minus without-refocusing: style " in capsys.readouterr().out


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
def test_bad_input_is_named_before_anything_is_loaded(samples, monkeypatch, options, message):
    folder, _ = samples
    monkeypatch.setattr(pairs, "load_backend", lambda name: pytest.fail("loaded"))
    arguments = {"pairs": ("ann:chic",), "methods": ("magicapture",), "out": folder / "out", "samples": folder}
    with pytest.raises((ValueError, OSError), match=message):
        pairs.main(**arguments | options)
