import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcpkg.cli import __main__ as cli, demo
from mcpkg.inference.adapter import Adapter
from tests.helpers.tiny_folders import quick_backend, write_pair, write_pictures


@pytest.mark.slow
def test_the_demo_writes_sheets_scores_report_and_adapter(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mcpkg.backends.load_backend", quick_backend)
    monkeypatch.setattr("mcpkg.backends.tune_without_models", lambda name, method: quick_backend().tune(method))
    monkeypatch.setattr(demo, "SAMPLES", tmp_path)
    write_pair(tmp_path)
    write_pictures(tmp_path / "subjects" / "bea")
    out = tmp_path / "out"
    cli.main(["demo", "--out", str(out), "--n", "2"])
    assert (out / "portraits.png").is_file() and (out / "attention.png").is_file()
    summary = json.loads((out / "scores.json").read_text())
    assert summary["source"].endswith("ann")  # the first by name
    scores = summary["methods"]["MagiCapture"]
    assert {"identity", "identity_scaled", "style", "leakage_source", "leakage_reference", "seconds"} <= scores.keys()
    assert scores["leakage_source"].keys() == {"mean", "low", "high", "n"}
    assert scores["n_images"] == 2
    assert Adapter.load(out / "adapter").method.name == "MagiCapture"
    shown = capsys.readouterr().out
    assert "without refocusing" in shown
    assert shown.splitlines()[-1] == str(out / "report.html")
    report = (out / "report.html").read_text()
    assert len(list((out / "cells").iterdir())) == 2 and len(list((out / "first_phases").iterdir())) == 1
    assert report.index("Before: without refocusing") < report.index("After: MagiCapture")


def test_missing_samples_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "SAMPLES", tmp_path)
    with pytest.raises(FileNotFoundError, match="no samples"):
        demo.run_demo(out=tmp_path)


def test_bad_input_is_seen_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda name: pytest.fail("loaded"))
    ann = write_pictures(tmp_path / "ann")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ValueError, match="--n: 0 is below 1"):
        demo.run_demo(ann, ann, out=tmp_path / "out", n=0)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        demo.run_demo(ann, tmp_path / "nowhere", out=tmp_path / "out")
    with pytest.raises(ValueError, match="taken: is a file"):
        demo.run_demo(ann, ann, out=tmp_path / "taken")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bad_folder_ends_the_command_with_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mcpkg.cli.demo",
        "--source",
        "nowhere",
        "--reference",
        "nowhere",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=Path(demo.__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nowhere: no such folder.\n")
