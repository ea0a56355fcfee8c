import numpy as np
import pytest
from PIL import Image

from mcpkg.util.errors import Notice
from mcpkg.world.sample_folders import SAMPLES, ensure_samples
from tests.helpers.repository_copy import ROOT


def pictures(folder):
    """Path in the folder -> pixels, h w c; without demo.png, which shows what a training made of them."""
    paths = [path for path in folder.rglob("*.png") if path != folder / "demo.png"]
    return {path.relative_to(folder): np.asarray(Image.open(path)).astype(int) for path in paths}


@pytest.mark.slow
def test_where_there_are_no_samples_those_of_the_repository_are_rendered(tmp_path):
    with pytest.warns(Notice, match="rendered"):
        folder = ensure_samples(tmp_path / "samples")
    rendered, kept = pictures(folder), pictures(ROOT / SAMPLES)
    assert rendered.keys() == kept.keys() and len(kept) == 100  # 10 folders of 5 pictures and 5 masks
    differences = np.stack([abs(rendered[path] - kept[path]) for path in kept])
    # another processor rounds another way: one level of 256, in about one value of ten million
    assert differences.max() <= 1 and (differences > 0).mean() < 1e-5
    assert (folder / "CREDITS.md").read_bytes() == (ROOT / SAMPLES / "CREDITS.md").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_samples_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "subjects").mkdir()
    assert ensure_samples(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["subjects"]


def test_samples_that_could_not_be_rendered_leave_nothing_behind(monkeypatch, tmp_path):
    def fails(out):
        (out / "subjects").mkdir(parents=True)
        raise OSError("disk on fire")

    monkeypatch.setattr("mcpkg.world.samples.make_samples", fails)
    with pytest.warns(Notice), pytest.raises(OSError, match="on fire"):
        ensure_samples(tmp_path / "samples")
    assert list(tmp_path.iterdir()) == []


def test_the_samples_of_a_faster_process_stay(monkeypatch, tmp_path):
    def slower(out):
        for place, name in ((out, "mine"), (tmp_path / "samples", "theirs")):
            place.mkdir()
            (place / name).touch()

    monkeypatch.setattr("mcpkg.world.samples.make_samples", slower)
    with pytest.warns(Notice):
        ensure_samples(tmp_path / "samples")
    assert [path.name for path in tmp_path.rglob("*")] == ["samples", "theirs"]
