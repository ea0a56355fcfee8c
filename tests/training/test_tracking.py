"""Trackers, by one that keeps what it is given; and the real TensorBoard where it is installed."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mcpkg.cli import __main__ as cli
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.training import run_options
from mcpkg.training.progress import StepReport
from mcpkg.training.run_folder import train_in_folder
from mcpkg.training.run_options import RunOptions
from mcpkg.training.tracking import TRACKER_FILE, RunLog
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short

IMAGE = torch.zeros(3, 4, 6)


class Recorder(GeneralTracker):
    """Keeps what it is given."""

    name, requires_logging_directory, made = "recorder", False, []

    def __init__(self, run_name, **options):
        super().__init__()
        self.options, self.logged, self.images, self.state = {"run_name": run_name, **options}, [], [], "new"
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        self.state = "started"

    def log(self, values, step=None, **_):
        self.logged.append((step, values))

    def log_images(self, values, step=None, **options):
        self.images.append((step, values, options))

    def finish(self):
        self.state = "finished"


@pytest.fixture
def recorder(monkeypatch):
    Recorder.made.clear()
    for name in run_options.PACKAGES:
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Recorder)
    monkeypatch.setattr(run_options, "find_spec", lambda name: object())
    return Recorder.made


def report(step=0):
    return StepReport(0, step, 4, 0.5, {"source": 0.25}, {"lora": 1e-4}, 1.0, 0, 0, 0, 0.1)


def log_steps(name, folder, done):
    with RunLog(name, folder) as log:
        log.start(done, {"seed": 3})
        log.step(report(), done + 1)
        log.preview(IMAGE, torch.tensor([0.2, 0.4, math.nan]), done + 1)


@pytest.mark.parametrize("name", run_options.PACKAGES)
def test_steps_rates_and_previews_with_their_likeness_are_logged(recorder, tmp_path, name):
    log_steps(name, tmp_path, 7)
    (tracker,) = recorder
    assert tracker.logged[0] == (8, {"loss": 0.5, "term/source": 0.25, "learning_rate/lora": 1e-4})
    assert tracker.logged[1] == (8, {"preview/likeness": pytest.approx(0.3)})
    ((step, images, options),) = tracker.images
    assert step == 8 and images["preview"].shape == (1, 4, 6, 3) and images["preview"].dtype == np.uint8
    assert options == ({"dataformats": "NHWC"} if name == "tensorboard" else {})
    assert tracker.state == "finished"


def test_a_training_that_goes_on_is_the_same_run(recorder, tmp_path):
    for name in ("wandb", "wandb", "trackio", "trackio"):
        log_steps(name, tmp_path, 0)
    log_steps("wandb", tmp_path / "other", 0)
    wandb, again, trackio, trackio_again, other = (tracker.options for tracker in recorder)
    run = (tmp_path / TRACKER_FILE).read_text()
    assert wandb["id"] == again["id"] == run != other["id"]
    assert trackio["name"] == trackio_again["name"] == f"{tmp_path.name}-{run}"
    assert all(options["resume"] == "allow" and options["config"] == {"seed": 3} for options in (wandb, trackio))
    assert all(options["run_name"] == "mcpkg" for options in (wandb, trackio))


def test_tensorboard_forgets_steps_that_are_done_again(recorder, tmp_path):
    log_steps("tensorboard", tmp_path, 7)
    assert recorder[0].options == {"run_name": "tensorboard", "logging_dir": tmp_path, "purge_step": 8}
    assert not (tmp_path / TRACKER_FILE).exists()


def test_without_a_tracker_nothing_is_made(recorder, tmp_path):
    log_steps(None, tmp_path, 0)
    assert not recorder and not list(tmp_path.iterdir())


def test_a_tracker_is_closed_when_the_training_fails(recorder, tmp_path):
    with pytest.raises(FloatingPointError):
        with RunLog("wandb", tmp_path) as log:
            log.start(0, {})
            raise FloatingPointError
    assert recorder[0].state == "finished"


@pytest.mark.slow
def test_a_killed_training_is_logged_from_its_checkpoint_on(recorder, tmp_path):
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    method = short(MAGICAPTURE, steps=3)  # 2 x 3 steps

    def train(on_step=None):
        options = RunOptions(save_every=2, preview_every=3, log_with="tensorboard")
        train_in_folder(
            tmp_path, backend, portraits, portraits, method, progress=False, on_step=on_step, options=options
        )

    def stop_at_five(report):
        if (report.phase, report.step) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stop_at_five)
    train()
    first, second = recorder

    def steps(tracker):
        return [step for step, values in tracker.logged if "loss" in values]

    assert steps(first) == [1, 2, 3, 4, 5] and [step for step, *_ in first.images] == [3]
    assert second.options["purge_step"] == 5 and steps(second) == [5, 6] and [step for step, *_ in second.images] == [6]
    assert first.state == second.state == "finished"
    assert {"loss", "term/source", "learning_rate/embeddings"} <= first.logged[0][1].keys()


@pytest.mark.parametrize("name", run_options.PACKAGES)
def test_a_missing_tracker_is_one_line_before_anything_is_read(monkeypatch, capsys, tmp_path, name):
    monkeypatch.setattr(run_options, "find_spec", lambda package: None)
    with pytest.raises(SystemExit, match="2"):
        cli.main(
            ["train", "--source", "no", "--reference", "nowhere", "--out", str(tmp_path / "out"), "--log-with", name]
        )
    error = capsys.readouterr().err
    assert (
        error == f"error: --log-with: {name} is not installed. Run pip install 'mcpkg[{name}]', or train without it.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_itself_keeps_steps_and_previews(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_steps("tensorboard", tmp_path, 7)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(8, 0.5)]
    assert [event.step for event in events.Images("preview")] == [8]
