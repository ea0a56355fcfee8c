import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import DREAMBOOTH, MAGICAPTURE
from mcpkg.training.checkpoints import load_checkpoint, read_steps, save_checkpoint
from mcpkg.training.previews import draw_preview
from mcpkg.training.run_folder import train_in_folder
from mcpkg.training.run_options import RunOptions
from mcpkg.training.trainer import open_training, personalise
from mcpkg.util.errors import Notice
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short, weights_of

METHOD = short(MAGICAPTURE, steps=4, identity_max_timestep=1.0, identity_every=2, identity_warmup=0.5)  # 2 x 4 steps


class Killed(BaseException):
    pass


def run(folder, method=METHOD, seed=0, pictures=1, **options):
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=pictures), tiny_portraits(backend, 2, seed=5)
    given = {key: options.pop(key) for key in ("on_step", "precision") if key in options}
    options = RunOptions(**options)
    return train_in_folder(folder, backend, source, reference, method, seed, progress=False, options=options, **given)


def in_memory(method=METHOD):
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=5)
    return personalise(backend, source, reference, method, progress=False)


def killing_after(steps):
    def on_step(report):
        nonlocal steps
        steps -= 1
        if steps == 0:
            raise Killed

    return on_step


def same(first, second):
    """Whether two adapters are the same to the bit, but for the time that they took."""
    one, two = ({**a.embeddings, **a.lora, **a.deltas} for a in (first, second))
    records = [{name: value for name, value in a.record.items() if name != "seconds"} for a in (first, second)]
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) and records[0] == records[1]


def history(folder):
    return [{name: value for name, value in step.items() if name != "seconds"} for step in read_steps(folder)]


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "unkilled"
    return folder, run(folder)


@pytest.mark.slow
def test_a_run_in_a_folder_is_the_one_in_memory(unkilled):
    folder, adapter = unkilled
    assert same(adapter, in_memory())
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "run.json", "steps.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(1,), (3,), (4,), (5, 2), (8,)], ids=str)
def test_a_killed_run_ends_as_if_it_had_not_been(unkilled, tmp_path, kills):
    """Before the first checkpoint, between two, at the end of a phase, twice in the second one, at the very end."""
    for steps in kills:
        with pytest.raises(Killed):
            run(tmp_path, on_step=killing_after(steps), save_every=2)
    assert same(run(tmp_path, save_every=2), unkilled[1])
    assert history(tmp_path) == history(unkilled[0])


@pytest.mark.slow
def test_whole_weights_and_accumulation_resume_too(tmp_path):
    method = replace(short(DREAMBOOTH, steps=3), accumulation_steps=2)
    with pytest.raises(Killed):
        run(tmp_path, method, on_step=killing_after(3), save_every=2)
    assert same(run(tmp_path, method), in_memory(method))


KILLED_PROCESS = """
import sys, time
from tests.training.test_run_folder import run
run(sys.argv[1], on_step=lambda report: time.sleep(float(sys.argv[2])), save_every=2)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing(unkilled, tmp_path):
    root, environment = Path(__file__).parents[2], os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", KILLED_PROCESS, tmp_path, "0.2"], cwd=root, env=environment)
    while len(read_steps(tmp_path)) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "checkpoint.safetensors").is_file() and not (tmp_path / "adapter").exists()

    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"phase": 1, "st')  # what a kill within a write leaves
    subprocess.run([sys.executable, "-c", KILLED_PROCESS, tmp_path, "0"], cwd=root, env=environment, check=True)
    assert same(run(tmp_path), unkilled[1])
    assert history(tmp_path) == history(unkilled[0])


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(unkilled):
    folder, adapter = unkilled
    assert same(run(folder, on_step=lambda report: pytest.fail("trained")), adapter)


@pytest.mark.slow
def test_previews_change_nothing_and_show_the_training_so_far(unkilled, tmp_path):
    assert same(run(tmp_path, preview_every=3), unkilled[1])
    names = ["000003.json", "000003.png", "000006.json", "000006.png"]
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == names
    written = json.loads((tmp_path / "previews" / "000003.json").read_text())
    assert written["seeds"] == [0, 1, 2, 3] and len(written["likeness"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHOD, short(DREAMBOOTH, steps=2)], ids=lambda method: method.name)
def test_a_preview_draws_what_the_finished_adapter_would(method):
    from mcpkg.inference.generate import generate_portraits

    backend = tiny_backend()
    portraits = tiny_portraits(backend)
    with open_training(backend, portraits, portraits, method, seed=0) as training:
        for _ in training.steps(show_progress=False):
            pass
        before, preview, adapter = weights_of(backend), draw_preview(training, n=2), training.adapter()
        after = weights_of(backend)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    drawn = generate_portraits(backend, adapter, sampling=Sampling(n=2), capture=True)
    torch.testing.assert_close(preview.images, drawn.images)
    assert preview.maps.roles == drawn.maps.roles == ("source", "reference")
    for role in drawn.maps.roles:
        torch.testing.assert_close(preview.maps.heatmap(role), drawn.maps.heatmap(role))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, r"holds a run with seed 0, not 1\. Give the same to go on, or another folder"),
        ({"method": replace(METHOD, lora_rank=2)}, "holds a run with method lora_rank 4, not 2"),
        ({"method": replace(METHOD, name="mine")}, 'method name "MagiCapture", not "mine"'),
        ({"pictures": 2}, "source 0.png .* and 2 more"),
        ({"precision": "bf16"}, 'precision "fp32", not "bf16"'),
    ],
)
def test_another_run_is_refused_with_what_differs(unkilled, change, message):
    with pytest.raises(ValueError, match=message):
        run(unkilled[0], **change)


def test_another_backend_is_refused(unkilled):
    backend = tiny_backend()
    backend.name = "other"
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=5)
    with pytest.raises(ValueError, match='backend "tiny", not "other"'):
        train_in_folder(unkilled[0], backend, source, reference, METHOD)


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files, such as thesis.txt. Give a new or empty folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="thesis.txt: is a file. Give a folder"):
        run(tmp_path / "thesis.txt")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "checkpoint.safetensors: .*Remove this file to train from the start"),
        (lambda data: b"", "checkpoint.safetensors: .*Remove this file"),
        (lambda data: b"\x80\x04" + data, "checkpoint.safetensors: a pickle"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage, message):
    with pytest.raises(Killed):
        run(tmp_path, on_step=killing_after(3), save_every=2)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        run(tmp_path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in its second phase: checkpoint, history and settings are there."""
    folder = tmp_path_factory.mktemp("run") / "killed"
    with pytest.raises(Killed):
        run(folder, on_step=killing_after(7), save_every=2)
    return folder


def flip(path, where, bit):
    data = bytearray(path.read_bytes())
    data[where * (len(data) - 2) // 100] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "run.json"])
@pytest.mark.parametrize("where", [0, 33, 66, 100])
def test_a_flipped_bit_of_a_run_is_noticed(killed, tmp_path, name, where):
    folder = shutil.copytree(killed, tmp_path / "run")
    flip(folder / name, where, bit=where % 8)
    with pytest.raises(ValueError, match=f"(?s){name}: .*(Remove this file|Give a new or empty folder|give a new)"):
        run(folder)


def without(part):
    return lambda state: replace(state, tensors={name: x for name, x in state.tensors.items() if part not in name})


def with_tensor(part, change):
    return lambda state: replace(
        state, tensors={name: change(x) if part in name else x for name, x in state.tensors.items()}
    )


def at(**changes):
    return lambda state: replace(state, progress=replace(state.progress, **changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (without("exp_avg_sq"), "the optimiser's '.* exp_avg_sq' is missing"),
        (without("moment "), "the optimiser's '.*' is missing"),
        (with_tensor("exp_avg", lambda x: x[:1]), "the optimiser's '.*exp_avg' is missing, or has another shape"),
        (with_tensor(" step", lambda x: x + 100), "the optimiser's '.* step' is not in 1 to 2"),
        (lambda s: replace(s, tensors=s.tensors | {"moment placeholders x": torch.ones(1)}), "has no 'placeholders x'"),
        (lambda s: replace(s, tensors=s.tensors | {"mine": torch.ones(1)}), "tensors that are no part of a training"),
        (with_tensor("generator", lambda x: x[:-1]), "its random state is damaged"),
        (with_tensor("generator", lambda x: x.float()), "its random state is damaged"),
        (with_tensor("generator", lambda x: x * 0 + 255), "its random state is damaged"),
        (without("generator"), "Use as many processes as before"),
        (with_tensor("parameter placeholders", lambda x: x[:1]), "parameters of another method or backend"),
        (at(phase=2, step=0), "phase 3: MagiCapture has no such phase"),
        (at(phase=1, step=5), "phase 2, step 5: MagiCapture has no such step"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_training_is_refused(killed, tmp_path, change, message):
    """With a digest that is right: as another program, or another version, could write it."""
    folder = shutil.copytree(killed, tmp_path / "run")
    file = folder / "checkpoint.safetensors"
    save_checkpoint(change(load_checkpoint(file)), file)
    with pytest.raises(ValueError, match=f"checkpoint.safetensors: .*{message}.*Remove this file to train"):
        run(folder)


@pytest.mark.slow
def test_a_damaged_line_of_the_history_is_noticed(killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    lines = (folder / "steps.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"step": 2', '"step": null')
    (folder / "steps.jsonl").write_text("\n".join(lines))
    with pytest.warns(Notice, match="steps.jsonl: line 3 is damaged; the loss curves end before it"):
        assert len(read_steps(folder)) == 2


def losing(passes):
    """`training_loss`, whose loss is NaN in these calls, counted from 0 over the whole run."""
    from mcpkg.training import trainer

    real, calls = trainer.training_loss, iter(range(10**6))

    def training_loss(*args):
        outcome = real(*args)
        return replace(outcome, loss=outcome.loss * float("nan")) if next(calls) in passes else outcome

    return training_loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mcpkg.util.errors.Notice")
def test_a_loss_that_is_not_finite_is_left_out_and_a_killed_run_leaves_out_the_same(tmp_path, monkeypatch):
    """Two passes a step: the first step loses one, the second both; then the run is killed, and repeats the third."""
    method = replace(METHOD, accumulation_steps=2)
    monkeypatch.setattr("mcpkg.training.trainer.training_loss", losing({1, 2, 3}))
    whole = run(tmp_path / "whole", method)
    monkeypatch.undo()
    monkeypatch.setattr("mcpkg.training.trainer.training_loss", losing({1, 2, 3}))
    with pytest.raises(Killed):
        run(tmp_path / "killed", method, save_every=2, on_step=killing_after(3))
    monkeypatch.undo()
    again = run(tmp_path / "killed", method)
    assert same(whole, again)
    assert repr(history(tmp_path / "whole")) == repr(history(tmp_path / "killed"))  # repr, for NaN is unlike itself
    assert [step["left_out"] for step in read_steps(tmp_path / "whole")] == [1, 2, 0, 0, 0, 0, 0, 0]
    assert whole.record["left_out"] == 3
    assert "NaN" not in (tmp_path / "whole" / "steps.jsonl").read_text()
    assert math.isnan(read_steps(tmp_path / "whole")[1]["loss"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mcpkg.util.errors.Notice")
def test_ten_losses_in_a_row_that_are_not_finite_end_a_run(tmp_path, monkeypatch):
    """Step 1 still updates with one of its four passes; 8 in steps 2 and 3, and 2 of the next phase, do not."""
    method = replace(METHOD, accumulation_steps=4)
    monkeypatch.setattr("mcpkg.training.trainer.training_loss", losing(set(range(5, 100))))
    with pytest.raises(FloatingPointError, match="phase 2, step 0: no finite loss .* in 10 forward"):
        run(tmp_path, method)


@pytest.mark.slow
def test_damaged_settings_are_one_clear_line(tmp_path):
    (tmp_path / "run.json").write_text('{"format": "mcpkg')
    with pytest.raises(ValueError, match="run.json: damaged"):
        run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "mcpkg run 9"}')
    with pytest.raises(ValueError, match="run.json: not of a run that this version of mcpkg"):
        run(tmp_path)


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_space(unkilled, tmp_path, monkeypatch):
    from mcpkg.training import run_folder

    def fail(state, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "save_checkpoint", fail)
    with pytest.raises(OSError, match=f"{tmp_path.name}: no space left on the disk. Free some and repeat"):
        run(tmp_path, save_every=2)
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    assert same(run(tmp_path), unkilled[1])


def test_run_json_records_what_was_trained_where(unkilled):
    values = json.loads((unkilled[0] / "run.json").read_text())
    assert values["settings"]["method"]["name"] == "MagiCapture" and values["settings"]["backend"] == "tiny"
    assert [session["from_step"] for session in values["sessions"]] == [0]
    assert values["sessions"][0]["versions"]["torch"] == version("torch")  # torch.__version__ may name CUDA


@pytest.mark.slow
def test_every_session_is_noted(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, on_step=killing_after(3), save_every=2)
    run(tmp_path)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"save_every": 0}, "save_every: 0 is below 1"),
        ({"save_every": -5}, "save_every: -5 is below 1"),
        ({"preview_every": -1}, "preview_every: -1 is below 0"),
    ],
)
def test_impossible_intervals_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    assert RunOptions(save_every=1, preview_every=0)  # the least that are possible
