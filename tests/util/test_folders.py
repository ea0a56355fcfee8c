import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mcpkg.util import folders
from mcpkg.util.files import STAGED, replace_whole
from mcpkg.util.folders import check_unused, one_process, replace_together, sweep
from mcpkg.util.safetensors_io import write_weights

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from mcpkg.util.folders import one_process
with one_process(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def small_files_only():
    """As on a disk that is full after a few bytes of each file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_files_move_together_and_old_ones_that_were_not_written_again_go(tmp_path):
    for name in ("kept", "old", "summary"):
        (tmp_path / name).write_text("before")
    with replace_together(tmp_path, last="summary", instead_of=("old", "new")) as staged:
        (staged / "new").write_text("after")
        (staged / "below").mkdir()
        (staged / "below" / "deep").write_text("after")
        (staged / "summary").write_text("after")
        assert (tmp_path / "summary").read_text() == "before" and not (tmp_path / "new").exists()
    assert listed(tmp_path) == ["below", "below/deep", "kept", "new", "summary"]
    assert (tmp_path / "summary").read_text() == "after"


def test_after_an_error_the_folder_is_as_it_was(tmp_path):
    (tmp_path / "summary").write_text("before")
    with pytest.raises(KeyError), replace_together(tmp_path, last="summary") as staged:
        (staged / "summary").write_text("after")
        raise KeyError
    assert listed(tmp_path) == ["summary"] and (tmp_path / "summary").read_text() == "before"
    with pytest.raises(KeyError), replace_together(tmp_path / "a" / "b") as staged:
        raise KeyError
    assert listed(tmp_path) == ["summary"]  # folders made for it are gone as well


def test_a_disk_that_fills_is_one_line_that_names_the_users_folder(tmp_path, small_files_only):
    with pytest.raises(OSError, match=f"^{tmp_path}: .*larger than is allowed.*repeat the command"):
        with replace_together(tmp_path) as staged:
            (staged / "card").write_text("small enough")
            write_weights({"large": torch.zeros(5000)}, staged / "weights.safetensors")
    assert listed(tmp_path) == []


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_weights({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
        with replace_whole(tmp_path / "private", mode=0o600) as partial:
            assert partial.stat().st_mode & 0o777 == 0o600  # from the start
            partial.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    (tmp_path / "portraits").mkdir()
    for name in (f".a.png.1234{STAGED}", f"portraits/.b.png.1234{STAGED}", "portraits/b.png", "download.part"):
        (tmp_path / name).write_text("")
    (tmp_path / f".out.1234{STAGED}" / "webui").mkdir(parents=True)
    with one_process(tmp_path):
        assert listed(tmp_path) == ["download.part", "portraits", "portraits/b.png"]
    sweep(tmp_path, "download.*")
    assert listed(tmp_path) == ["portraits", "portraits/b.png"]


@pytest.mark.slow
def test_one_process_at_a_time_has_a_folder_and_it_is_free_when_that_is_killed(tmp_path):
    place = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, place], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="run: another process is writing there. Wait until"), one_process(place):
            pass
        with pytest.raises(OSError, match="another process"):
            check_unused(place)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    check_unused(place)
    with one_process(place), one_process(place):  # the same process may ask again
        check_unused(place)
    with one_process(tmp_path / "new" / "run"):
        pass
    assert listed(tmp_path) == ["run"]  # nothing was written, so the new folders are gone again


def test_one_that_comes_second_leaves_the_folder_to_the_first(tmp_path, monkeypatch):
    """Even if it made the folder itself: removed, a third process would make and lock it anew."""
    lock, first = folders._lock, []

    def lose(folder):
        first.append(lock(folder))
        return lock(folder)

    monkeypatch.setattr(folders, "_lock", lose)
    with pytest.raises(OSError, match="another process is writing there"), one_process(tmp_path / "run"):
        pass
    assert os.path.samestat(os.fstat(first[0]), os.stat(tmp_path / "run"))
    os.close(first[0])


@pytest.mark.slow
def test_of_processes_that_start_at_once_one_gets_the_folder(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]  # fmt: skip
    deadline = time.monotonic() + 300
    while sum(process.poll() is None for process in started) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    running = [process for process in started if process.poll() is None]
    try:
        assert len(running) == 1
        for process in started:
            if process not in running:
                assert "another process is writing there" in process.communicate()[1]
    finally:
        for process in running:
            process.kill()
            process.communicate()
