import json

import pytest

from benchmarks import drawing
from mcpkg.util.images import save_image
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


@pytest.mark.slow
def test_the_command_prints_every_way_with_its_ratio_to_plain_diffusers(tmp_path, monkeypatch, capsys):
    folders = {"source": tmp_path / "ann", "reference": tmp_path / "chic"}
    for seed, folder in enumerate(folders.values()):
        for number, image in enumerate(tiny_portraits(tiny_backend(), 2, seed=seed).images):
            save_image(image, folder / f"{number}.png")
    monkeypatch.setattr(drawing, "load_backend", lambda *_: tiny_backend())
    drawing.main(rounds=2, n=1, steps=2, as_json=True, **folders)
    result = json.loads(capsys.readouterr().out)
    assert list(result["ways"])[:2] == ["plain diffusers", "LoRA"] and result["bar"] == 1.1
    assert result["ways"]["plain diffusers"]["ratio"] == 1 and all(w["seconds"] > 0 for w in result["ways"].values())
    assert "whole weights" in drawing.table(result)


def test_a_single_round_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(drawing, "load_backend", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="--rounds: 1 is below 2"):
        drawing.main(rounds=1)
