import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mcpkg
from mcpkg.data.portraits import load_portraits
from mcpkg.util.errors import first_line, notify, one_line_errors
from mcpkg.util.safetensors_io import read_weights
from tests.data.test_image_files import BAD, picture, write_bad
from tests.helpers.tiny_backend import tiny_backend

ROOT = Path(mcpkg.__file__).parent.parent


def ends_with(capsys, action):
    """What a command that does this prints on standard error."""
    with pytest.raises(SystemExit) as stop, one_line_errors():
        action()
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1
    return err.strip()


def fail(error):
    raise error


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError])
def test_bad_input_is_one_line_and_exit_code_2(capsys, kind):
    assert ends_with(capsys, lambda: fail(kind("n: 0.\n  Give more."))) == "error: n: 0. Give more."


def test_a_full_gpu_is_one_line_that_names_the_switch(capsys):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "in training give --checkpointing on" in ends_with(capsys, lambda: fail(error))


def test_bugs_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("missing")


@pytest.mark.parametrize("where, named", [(None, "disk"), ("runs/a.png", "runs/a.png")])
def test_a_full_disk_is_named(capsys, where, named):
    error = OSError(errno.ENOSPC, "No space left on device", where)
    assert ends_with(capsys, lambda: fail(error)) == f"error: {named}: no space left. Free some and repeat the command."


def test_the_systems_errors_name_the_file_first(capsys, tmp_path):
    (tmp_path / "taken").touch()
    message = ends_with(capsys, lambda: (tmp_path / "taken").mkdir())
    assert message == f"error: {tmp_path / 'taken'}: file exists."


def test_damaged_weights_are_named_although_safetensors_does_not(capsys, tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"\xff" * 40)
    message = ends_with(capsys, lambda: load_file(path))
    assert message.startswith(f"error: {path}: damaged, or not a safetensors file (")
    assert message.endswith("Copy or train it again.")


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.ckpt", "a.pkl", "a.safetensors"])
def test_a_pickle_is_refused_with_the_reason(capsys, tmp_path, name):
    torch.save({"weight": torch.zeros(2)}, tmp_path / name)
    message = ends_with(capsys, lambda: read_weights(tmp_path / name))
    assert message.startswith(f"error: {tmp_path / name}: a pickle, which can run any code")


def test_a_notice_is_one_line_and_given_once(capsys):
    with one_line_errors():
        for _ in range(3):
            notify("a.png: several\n faces.")
    assert capsys.readouterr() == ("", "notice: a.png: several faces.\n")


def test_other_warnings_are_shown_as_before_and_nothing_stays_changed():
    before = warnings.showwarning, list(warnings.filters)
    with pytest.warns(DeprecationWarning, match="old"), one_line_errors():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert (warnings.showwarning, warnings.filters) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_every_bad_picture_in_a_folder_ends_with_its_name(capsys, tmp_path, kind):
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
    path = write_bad(tmp_path, kind)
    assert ends_with(capsys, lambda: load_portraits(tmp_path, tiny_backend())).startswith(f"error: {path}: ")


COMMAND = """
import sys
from mcpkg.util.errors import one_line_errors
from mcpkg.data.portraits import load_portraits
from tests.helpers.tiny_backend import tiny_backend
with one_line_errors():
    print(len(load_portraits(sys.argv[1], tiny_backend())))
"""


@pytest.mark.slow
def test_notices_and_errors_of_a_command_are_separate_from_its_output(tmp_path):
    def run():
        quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}  # its advice on torchvision is none of ours
        command = [sys.executable, "-c", COMMAND, tmp_path]
        done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr.splitlines()

    picture(32, 32).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "b.png")  # two faces to the tiny parser
    code, out, (notice,) = run()
    assert (code, out) == (0, "2\n") and notice.startswith(f"notice: {tmp_path / 'b.png'}: several faces")
    Image.new("RGB", (32, 32), "black").save(tmp_path / "c.png")
    code, out, (error,) = run()
    assert (code, out) == (2, "") and error.startswith(f"error: {tmp_path / 'c.png'}: no face found.")


def test_the_first_line_of_an_error_is_never_empty():
    assert first_line(RuntimeError("size mismatch\nmore")) == "size mismatch"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
