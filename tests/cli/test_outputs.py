import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mcpkg.cli import __main__ as cli
from mcpkg.util.files import STAGED
from mcpkg.util.folders import one_process
from tests.cli.test_cli import on, refused, run, tiny  # noqa: F401
from tests.helpers.tiny_folders import write_pictures

ROOT = Path(__file__).parents[2]


def contents(folder):
    """Every file with a digest of what is in it."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def commands(folder, pair):
    """Command -> its arguments but --out, with the one file that it writes in every case."""
    adapter, drawing = ["--adapter", folder / "full"], ["--n", 1, "--steps", 1]
    return {
        "masks": (on(pair), "source_masks.png"),
        "train": ([*on(pair), "--n", 0], "run.json"),
        "evaluate": ([*on(pair), *adapter, *drawing], "report.html"),
        "generate": ([*adapter, *drawing], "seed_00000.png"),
        "leakage": ([*adapter, *drawing], "leakage.csv"),
        "export": (adapter, "README.md"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks", "train", "evaluate"])
def test_nothing_is_written_in_or_around_a_folder_of_pictures(run, capsys, tmp_path, name):  # noqa: F811
    folder, _ = run
    person, look = write_pictures(tmp_path / "photos" / "me"), write_pictures(tmp_path / "look", seed=2)
    args, before = commands(folder, (person, look))[name][0], contents(tmp_path)
    (tmp_path / "link").symlink_to(person)
    places = {person: "is", person / "sheets": "lies in", tmp_path / "photos": "is around", look: "is",
              tmp_path: "is around", tmp_path / "link" / "x": "lies in"}  # fmt: skip
    for out, where in places.items():
        assert f"{where} the folder of pictures" in refused(capsys, name, *args, "--out", out)
    assert contents(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks", "train", "evaluate", "generate", "leakage", "export"])
def test_files_of_others_are_not_replaced_and_ours_are(run, capsys, tmp_path, name):  # noqa: F811
    folder, pair = run
    args, file = commands(folder, pair)[name]
    out = tmp_path / "out"
    out.mkdir()
    (out / file).write_text("mine")
    refused(capsys, name, *args, "--out", out)
    assert contents(out).keys() == {out / file} and (out / file).read_text() == "mine"
    for overwrite in (["--overwrite"], []):  # once overwritten, it is ours
        cli.main([str(word) for word in (name, *args, "--out", out, *overwrite)])
        assert (out / file).read_bytes() != b"mine"


@pytest.mark.slow
def test_another_run_can_be_begun_in_its_place(run, capsys, tmp_path):  # noqa: F811
    _, pair = run
    train = ["train", *on(pair), "--out", str(tmp_path / "run"), "--n", "0"]
    cli.main(train)
    assert "holds a run with seed 0, not 1" in refused(capsys, *train, "--seed", "1")
    cli.main([*train, "--seed", "1", "--overwrite"])
    assert json.loads((tmp_path / "run" / "adapter" / "adapter.json").read_text())["seed"] == 1
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["train"]["seed"] == 1 and settings["train"]["source"] == str(pair[0])


def test_a_folder_that_another_command_writes_to_is_refused_before_models_load(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda *_: pytest.fail("loaded"))
    pair = write_pictures(tmp_path / "a"), write_pictures(tmp_path / "b", seed=1)
    code = f"from mcpkg.util.folders import one_process\nwith one_process({str(tmp_path / 'out')!r}):\n" \
           "    print(flush=True); input()"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        for _ in range(20):
            assert "another process is writing there" in refused(capsys, "train", *on(pair), "--out", tmp_path / "out")
        holder.communicate("\n")


@pytest.mark.slow
@pytest.mark.parametrize("bytes_free", [300, 3000, 9000, 20000])
@pytest.mark.parametrize("name", ["evaluate", "export", "masks"])
def test_a_full_disk_leaves_all_files_of_a_command_or_none(run, capsys, tmp_path, name, bytes_free):  # noqa: F811
    folder, pair = run
    args, _ = commands(folder, pair)[name]
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, limits[1]))
    try:
        line = refused(capsys, name, *args, "--out", out)
    except pytest.fail.Exception:  # nothing was too large
        line = ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (str(out) in line and "repeat the command" in line and STAGED not in line) or not line
    if line:
        assert contents(out).keys() <= {out / "settings.json"}
        cli.main([str(word) for word in (name, *args, "--out", out)])
    assert out.joinpath(commands(folder, pair)[name][1]).is_file()
    assert not [path for path in out.rglob("*") if STAGED in path.name]


def test_leftovers_of_a_killed_command_are_swept(tmp_path):
    left = tmp_path / f".out.0123{STAGED}"
    (left / "webui").mkdir(parents=True)
    with one_process(tmp_path):
        assert not left.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(capsys, tmp_path):
    pair = write_pictures(tmp_path / "a"), write_pictures(tmp_path / "b", seed=1)
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked: you may not write there" in refused(
        capsys, "masks", *on(pair), "--out", tmp_path / "locked" / "out"
    )
