import hashlib

import pytest

from mcpkg.cli import __main__ as cli
from mcpkg.inference import provenance
from tests.cli.test_cli import refused, run, tiny  # noqa: F401
from tests.helpers.tiny_folders import quick_backend


def bytes_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("seed_*.png")}


@pytest.mark.slow
def test_portraits_are_written_as_drawn_and_the_rest_follows_with_the_same_bytes(run, tmp_path, monkeypatch):  # noqa: F811
    folder, _ = run
    args = ["generate", "--adapter", str(folder / "full"), "--steps", "1", "--n", "20", "--spread", "0.5", "--out"]
    cli.main([*args, str(tmp_path / "whole")])
    save, written = provenance.save_portraits, []

    def stops_in_the_third_batch(generated, out):
        if len(written) == 16:
            raise KeyboardInterrupt
        written.extend(save(generated, out))

    monkeypatch.setattr(provenance, "save_portraits", stops_in_the_third_batch)
    with pytest.raises(SystemExit):
        cli.main([*args, str(tmp_path / "out")])
    assert len(bytes_of(tmp_path / "out")) == 16
    (tmp_path / "out" / "seed_00003.png").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed_*.png")}
    monkeypatch.undo()
    monkeypatch.setattr("mcpkg.backends.load_backend", quick_backend)
    cli.main([*args, str(tmp_path / "out")])
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # not drawn again


@pytest.mark.slow
def test_portraits_of_other_settings_are_named_and_not_replaced(run, tmp_path, capsys):  # noqa: F811
    folder, _ = run
    args = ["generate", "--adapter", str(folder / "full"), "--n", "2", "--out", str(tmp_path / "out")]
    cli.main([*args, "--steps", "1"])
    before = bytes_of(tmp_path / "out")
    assert "seed_00000.png: drawn with steps 1, not 2. Give another --out, or" in refused(capsys, *args, "--steps", "2")
    assert bytes_of(tmp_path / "out") == before
    cli.main([*args, "--steps", "2", "--overwrite"])
    assert bytes_of(tmp_path / "out") != before
