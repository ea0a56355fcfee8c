import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mcpkg
from mcpkg.cli import __main__ as cli
from mcpkg.cli.options import Models
from mcpkg.cli.parsing import parse
from tests.cli.test_cli import refused
from tests.helpers.tiny_folders import write_pictures

ROOT = Path(__file__).parents[2]
PATHS = ["--source", "a", "--reference", "b"]


@pytest.mark.parametrize(
    "args, line",
    [
        (["trian"], "trian: no such command. Did you mean train?"),
        (["xyz"], "xyz: no such command. Choose from train, grid, generate"),
        ([], "no command. Give one of train, grid, generate"),
        (["masks", "--sorce", "a"], "--sorce: no option of mcpkg masks. Did you mean --source?"),
        (["train", *PATHS, "--out=c", "--learning_rat=1"], "--learning_rat: no option of mcpkg train. Did"),
        (["masks", "--out", "a"], "mcpkg masks: --source and --reference missing."),
        (["train", *PATHS, "--out", "c", "--backend", "min"], "invalid choice 'min' for argument '--backend'"),
        (["train", *PATHS, "--out", "c", "--seed", "x"], "--seed: invalid literal"),
        (["train", *PATHS, "--out", "c", "--seed"], "Missing value for argument '--seed'"),
        (["train", "extra", *PATHS, "--out", "c"], "extra"),
        (["train", "--config"], "--config: the file is missing"),
        (["train", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_one_line(capsys, args, line):
    assert line in refused(capsys, *args)


def test_the_version_is_printed(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"mcpkg {mcpkg.__version__}\n"


def test_options_come_from_a_file_and_typed_ones_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('source = "a"\nreference = "b"\nout = "c"\nseed = 3\nphase_steps = [2, 1]\nsafety = false\n'
                    "masked = true\n[weights]\nidentity = 0.5\n[refocusing]\nform = 'mask'\n")  # fmt: skip
    name, call = parse(cli.COMMANDS, ["train", "--config", str(file), "--seed", "4", "--save-every", "7"])
    given = call.keywords
    assert (name, given["seed"], given["out"], given["run"].save_every) == ("train", 4, Path("c"), 7)
    assert (given["pictures"].source, given["models"].safety) == (Path("a"), False)
    assert (given["research"].phase_steps, given["research"].masked) == ((2, 1), True)
    assert (given["weights"].identity, given["refocusing"].form) == (0.5, "mask")


def test_settings_that_a_command_wrote_are_the_same_options_again(tmp_path):
    from mcpkg.cli.outputs import as_settings

    typed = ["generate", "--adapter", "a", "--out", "b", "--seeds", "3", "7", "--guidance", "2.5",
             "--no-plain-guidance", "--edit", "with a hat", "--no-safety", "--device", "cpu", "--restore"]  # fmt: skip
    call = parse(cli.COMMANDS, typed)[1]
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"mcpkg": "0.1.0", "generate": as_settings(call.keywords)}))
    assert parse(cli.COMMANDS, ["generate", "--config", str(file)])[1].keywords == call.keywords


@pytest.mark.parametrize(
    "name, text, line",
    [
        ("a.toml", "seed = ", "a.toml: cannot be read as toml"),
        ("a.json", "[1]", "a.json: holds no options"),
        ("a.toml", "sede = 1", "a.toml: sede is no option of mcpkg train. Did you mean --seed?"),
        ("a.json", '{"mcpkg": "0.1.0", "masks": {}}', "a.json: holds no options of mcpkg train"),
        ("a.toml", 'seed = "x"', "--seed: invalid literal"),
    ],
)
def test_a_bad_file_of_options_is_one_line(capsys, tmp_path, name, text, line):
    (tmp_path / name).write_text(text)
    assert line in refused(capsys, "train", *PATHS, "--out", tmp_path / "c", "--config", tmp_path / name)


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_error():
    code = "from mcpkg.cli.__main__ import main; main(['weights'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.slow
@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_training_that_is_stopped_says_so_and_goes_on_when_repeated(tmp_path, sent, code):
    folders = [write_pictures(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    program = (
        "import signal, sys, time, mcpkg.backends as b, mcpkg.training.trainer as t\n"
        # a shell's background jobs, and so their tests, begin with ^C ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.helpers.tiny_folders import quick_backend; b.load_backend = quick_backend\n"
        "step = t.Training._take_step\n"
        "def slow(*a):\n    print('step', flush=True); time.sleep(float(sys.argv[1])); return step(*a)\n"
        "t.Training._take_step = slow\n"
        "from mcpkg.cli.__main__ import main; main(sys.argv[2:])"
    )
    args = ["train", "--source", folders[0], "--reference", folders[1], "--out", tmp_path / "out", "--n", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen([*command, "60", *args], cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "step\n"
        time.sleep(0.2)
        process.send_signal(sent)
        error = process.stderr.read()
        assert process.wait() == code
    assert "Traceback" not in error and error.splitlines()[-1].startswith("stopped. When its command is repeated")
    subprocess.run([*command, "0", *args], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert (tmp_path / "out" / "adapter" / "adapter.json").is_file()


def test_the_device_is_the_gpu_where_there_is_one(monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr("mcpkg.backends.load_backend", lambda name, device: chosen.append(device))
    monkeypatch.setattr("torch.empty", lambda *_, device: None)
    for there, line in ((False, ""), (True, "device: cuda (H100); --device cpu for the processor\n")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "H100")
        Models().load()
        assert capsys.readouterr().err == line
    Models(device="cpu").load()
    assert chosen == ["cpu", "cuda", "cpu"] and capsys.readouterr().err == ""
