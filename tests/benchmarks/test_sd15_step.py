import json
from dataclasses import replace

import pytest

from benchmarks import identity_decoding, sd15_step
from tests.helpers.tiny_sd15 import SMALL

LARGER = replace(SMALL, unet=SMALL.unet | {"sample_size": 32})  # so that a face is only part of the frame


@pytest.mark.slow
def test_a_step_that_does_more_counts_more(monkeypatch):
    monkeypatch.setattr(sd15_step, "WARMUP_STEPS", 0)
    monkeypatch.setattr(sd15_step, "MATRIX_SIDE_CPU", 64)
    answer = sd15_step.measure("cpu", "fp32", steps=1, shapes=LARGER)
    rows = {row["variant"]: row for row in answer["variants"]}
    assert list(rows) == ["phase 1", "LoRA", "LoRA, refocusing", "identity, whole", "identity, face"]
    assert rows["phase 1"]["tflop"] < rows["LoRA"]["tflop"]  # two tasks, then three
    assert rows["LoRA"]["tflop"] < rows["LoRA, refocusing"]["tflop"] < rows["identity, face"]["tflop"]
    assert rows["identity, face"]["tflop"] < rows["identity, whole"]["tflop"]
    # 1200 steps of 4 passes of phase 1, 1500 of phase 2
    hours = 4 * (1200 * rows["phase 1"]["seconds"] + 1500 * rows["identity, face"]["seconds"]) / 3600
    assert answer["schedule_hours"] == pytest.approx(hours)


def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(ValueError, match="no such GPU here"):
        sd15_step.main(device="cuda:7")


@pytest.mark.slow
def test_the_faces_part_costs_less_and_agrees(capsys):
    identity_decoding.main(n=2, contexts=(4,), as_json=True)
    whole, face = json.loads(capsys.readouterr().out)
    assert whole["least"] == 1 and face["least"] > 0.95
    assert face["cells"] < whole["cells"] and face["time"] < 0.8
