"""The slow one: Stable Diffusion 1.5 at its full size, on the processor, with random weights."""

import json
import os
import subprocess
import sys

import pytest

from mcpkg.backends.sd15.shapes import PARAMETERS

MOST_GIB = 20


@pytest.mark.slow
def test_the_full_size_trains_both_phases_and_draws_within_memory(tmp_path):
    command = [sys.executable, "-m", "mcpkg.cli.sd15_dry_run", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MCPKG_WEIGHTS": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "dry_run.json").read_text())
    assert result["parameters"] == PARAMETERS and result["image_size_px"] == 512
    assert max(result["peak_gib"].values()) < MOST_GIB
    assert [step["phase"] for step in result["steps"]] == [1, 2]
    assert {"refocusing", "identity"} <= result["steps"][1].keys()
    assert result["largest_difference"] < 1e-2  # else the command has failed already
