import json
from pathlib import Path

import pytest

from mcpkg.cli import __main__ as cli
from mcpkg.cli.grids import pair_up
from tests.cli.test_cli import refused
from tests.helpers.tiny_folders import write_pair

SAMPLES = Path(__file__).parents[2] / "data_samples"


def test_sources_and_references_are_paired():
    a, b, x, y = map(Path, "abxy")
    assert pair_up((a, b), (x, y), "all") == [(a, x), (a, y), (b, x), (b, y)]
    assert pair_up((a, b), (x, y), "zip") == [(a, x), (b, y)]
    with pytest.raises(ValueError, match="--pairs zip: 2 sources and 1 references"):
        pair_up((a, b), (x,), "zip")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        (["--workers", 0], "--workers: 0 is below 1."),
        (["--n", 0], "--n: 0 is not in 1 to 10,000."),
        (["--seed", -1], "--seed"),
        (["--method"], "--method: none given."),
        (["--phase-steps", 1], "--phase-steps: 1 given, and MagiCapture has 2 phases."),
        (["--slurm", "gpu"], "--slurm: 'gpu' is not name=value, such as partition=gpu."),
        (["--device", "tpu"], "--device: 'tpu' is none that torch can use here."),
        (["--pairs", "zip", "--source", "ann", "bea"], "--pairs zip: 2 sources and 1 references."),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(capsys, tmp_path, options, message):
    source, reference = write_pair(tmp_path)
    out = tmp_path / "out"
    assert message in refused(capsys, "grid", "--source", source, "--reference", reference, "--out", out, *options)
    assert not out.exists()


@pytest.mark.slow
def test_a_grid_of_the_built_in_model_by_two_workers(capsys, tmp_path):
    folders = ["--source", SAMPLES / "subjects/amara", "--reference", SAMPLES / "styles/kimono"]
    words = ["grid", *folders, "--out", tmp_path / "out", "--method", "magicapture", "without-refocusing"]
    words += ["--phase-steps", 1, 1, "--n", 1, "--workers", 2, "--device", "cpu", "--json"]
    cli.main([str(word) for word in words])
    answer = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in answer["cells"]] == ["finished", "finished"]
    assert Path(answer["overview"]).is_file() and Path(answer["table"]).is_file()
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["grid"]["method"] == ["magicapture", "without-refocusing"]
    assert settings["grid"]["source"] == [str(SAMPLES / "subjects/amara")]
    cli.main(["grid", "--config", str(tmp_path / "out/settings.json"), "--json"])  # nothing is left to do
    assert json.loads(capsys.readouterr().out) == answer
