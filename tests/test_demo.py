import json
from dataclasses import replace

import pytest

from mcpkg import demo
from mcpkg.adapter import Adapter
from mcpkg.portraits import save_image
from tests.tiny_backend import tiny_backend, tiny_portraits


def quick_backend(name):
    backend = tiny_backend()
    backend.tune = lambda method: replace(
        method, phases=tuple(replace(phase, steps=1) for phase in method.phases), accumulation_steps=1
    )
    return backend


def test_the_demo_writes_sheets_scores_and_adapter(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "load_backend", quick_backend)
    monkeypatch.setattr(demo, "SAMPLES", tmp_path)
    for folder, seed in (("subjects/ann", 1), ("subjects/bea", 2), ("styles/chic", 3)):
        for number, image in enumerate(tiny_portraits(tiny_backend(), 2, seed=seed).images):
            save_image(image, tmp_path / folder / f"{number}.png")
    demo.main(out=tmp_path / "out", n=2)
    assert (tmp_path / "out" / "portraits.png").is_file() and (tmp_path / "out" / "attention.png").is_file()
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert summary["source"].endswith("ann")  # the first by name
    scores = summary["methods"]["MagiCapture"]
    assert {"identity", "identity_scaled", "style", "leakage_source", "leakage_reference", "seconds"} <= scores.keys()
    assert scores["leakage_source"].keys() == {"mean", "low", "high", "n"}
    assert scores["n_images"] == 2
    assert Adapter.load(tmp_path / "out" / "adapter").method.name == "MagiCapture"
    assert "without refocusing" in capsys.readouterr().out


def test_missing_samples_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "load_backend", quick_backend)
    monkeypatch.setattr(demo, "SAMPLES", tmp_path)
    with pytest.raises(SystemExit, match="no samples"):
        demo.main(out=tmp_path)
