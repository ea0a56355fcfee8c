import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
    with pytest.raises(FileNotFoundError, match="no samples"):
        demo.main(out=tmp_path)


def test_bad_input_is_seen_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "load_backend", lambda name: pytest.fail("loaded"))
    save_image(tiny_portraits(tiny_backend(), 1).images[0], tmp_path / "ann" / "0.png")
    (tmp_path / "taken").write_text("a file")
    ann = tmp_path / "ann"
    with pytest.raises(ValueError, match="--n: 0 is below 1"):
        demo.main(ann, ann, out=tmp_path / "out", n=0)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        demo.main(ann, tmp_path / "nowhere", out=tmp_path / "out")
    with pytest.raises(FileExistsError):
        demo.main(ann, ann, out=tmp_path / "taken")


def test_a_bad_folder_ends_the_command_with_one_line(tmp_path):
    command = [sys.executable, "-m", "mcpkg.demo", "--source", "nowhere", "--reference", "nowhere", "--out", tmp_path]
    done = subprocess.run(command, cwd=Path(demo.__file__).parent.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nowhere: no such folder.\n")
