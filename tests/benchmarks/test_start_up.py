import json
import sys

import pytest

from benchmarks import start_up


@pytest.mark.slow
def test_every_command_has_its_seconds_and_its_ratio_to_import_torch(monkeypatch, capsys):
    quick = dict.fromkeys(start_up.COMMANDS, (sys.executable, "-c", "sum(range(3_000_000))"))
    quick[start_up.TRAIN] = (sys.executable, "-c", WRITES)
    monkeypatch.setattr(start_up, "COMMANDS", quick)
    start_up.main(rounds=1, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["rounds"] == 1 and result["commands"].keys() == start_up.COMMANDS.keys()
    assert result["commands"]["import torch"]["ratio"] == 1
    assert {name: cost["bar_s"] for name, cost in result["commands"].items() if cost["bar_s"]} == start_up.BARS_S
    assert all(cost["seconds"] > 0 for cost in result["commands"].values())


WRITES = """
import pathlib, sys, time
run = pathlib.Path(sys.argv[-1])
run.mkdir()
(run / "steps.jsonl").write_text("the first step")
time.sleep(600)
"""


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path):
    broken = (sys.executable, "-c", "raise SystemExit('no weights')")
    with pytest.raises(OSError, match="ended with 1. no weights"):
        start_up.processor_seconds(broken)
    with pytest.raises(OSError, match="ended with 0"):  # it never took a step
        start_up.processor_seconds((sys.executable, "-c", ""), tmp_path / "steps.jsonl")


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="--rounds"):
        start_up.main(rounds=0)
