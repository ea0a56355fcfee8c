import json
import math
import shutil
from dataclasses import replace
from pkgutil import resolve_name

import pytest
import torch

from mcpkg.inference.adapter import Adapter
from mcpkg.metrics.evaluate import scorer
from mcpkg.training import keep_best
from mcpkg.training.checkpoints import read_steps
from mcpkg.training.keep_best import CheckpointScore, best_of, read_checkpoint_scores
from mcpkg.training.run_folder import train_in_folder
from mcpkg.training.run_options import RunOptions
from mcpkg.training.trainer import open_training
from mcpkg.util.errors import Notice
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.training.test_run_folder import METHOD, Killed, history, killing_after, same

STEPS = [5, 6, 7, 8]  # of the last phase, of 2 x 4 steps


@pytest.fixture(scope="module", autouse=True)
def quickly_scored():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keep_best, "SCORED", replace(keep_best.SCORED, n=2, steps=2))
        yield


def pictures(backend):
    return tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=5)


def run(folder, score=None, on_step=None, **options):
    backend = tiny_backend()
    # identity_scaled has no value here: random pictures are no more like each other than strangers
    given = RunOptions(**{"keep_best": "identity", "keep_best_every": 1, "save_every": 2} | options)
    score = score or scorer("identity", backend, *pictures(backend))
    rest = {"on_step": on_step, "progress": False, "options": given, "score": score}
    return train_in_folder(folder, backend, *pictures(backend), METHOD, **rest)


def scripted(*values):
    """A score with these values, one after the other."""
    left = iter(values)
    return lambda generated: next(left)


def learned_after(steps):
    backend = tiny_backend()
    with open_training(backend, *pictures(backend), METHOD, seed=0) as training:
        for _ in training.steps(show_progress=False):
            if training.steps_done == steps:
                return training.adapter()


def tensors_of(adapter):
    return {**adapter.embeddings, **adapter.lora, **adapter.deltas}


def alike(first, second):
    one, two = tensors_of(first), tensors_of(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def steps_and_scores(folder):
    return [(one.step, one.score) for one in read_checkpoint_scores(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("values, best", [((0.1, 0.9, 0.3, 0.2), 6), ((0.1, math.nan, 0.3, 0.4), 8)], ids=str)
def test_the_adapter_is_that_of_the_best_checkpoint_and_says_so(tmp_path, values, best):
    adapter = run(tmp_path, scripted(*values))
    assert alike(adapter, learned_after(best))
    assert alike(Adapter.load(tmp_path / "adapter"), adapter)
    record = json.loads((tmp_path / "adapter" / "adapter.json").read_text())["record"]
    assert (record["best_step"], record["best_identity"]) == (best, max(values, key=lambda x: (x == x, x)))
    expected = [(step, None if math.isnan(value) else value) for step, value in zip(STEPS, values, strict=True)]
    assert steps_and_scores(tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter", "checkpoint_scores.jsonl", "run.json", "steps.jsonl"}  # fmt: skip


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "unkilled"
    return folder, run(folder)


@pytest.mark.slow
def test_scoring_does_not_disturb_the_training(unkilled, tmp_path):
    folder, _ = unkilled
    backend = tiny_backend()
    plain = train_in_folder(tmp_path, backend, *pictures(backend), METHOD, progress=False)
    assert history(folder) == history(tmp_path)
    last = run(tmp_path / "kept", scripted(1, 2, 3, 4))
    assert alike(last, plain)


def killing(function, n, before=True):
    """The function, but the training is killed at its n-th call: before it, or right after."""
    calls = iter(range(1, 1000))

    def call(*args, **kwargs):
        last = next(calls) == n
        if last and before:
            raise Killed
        result = function(*args, **kwargs)
        if last:
            raise Killed
        return result

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, n, before",
    [
        ("training.keep_best.generate_portraits", 4, True),
        ("inference.adapter.Adapter.save", 1, False),
        ("inference.adapter.write_json", 2, True),  # a half-written adapter of a checkpoint
        ("training.keep_best.replace_whole", 4, True),
        ("training.run_folder.save_checkpoint", 3, True),
        ("training.run_folder._clear", 1, True),
    ],
)
def test_a_killed_run_ends_with_the_same_adapter_and_the_same_scores(unkilled, tmp_path, monkeypatch, place, n, before):
    """Before and after each thing that is written at a checkpoint and at the end."""
    target = f"mcpkg.{place}"
    monkeypatch.setattr(target, killing(resolve_name(target), n, before))
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    run(tmp_path)
    assert same(Adapter.load(tmp_path / "adapter"), unkilled[1])
    assert steps_and_scores(tmp_path) == steps_and_scores(unkilled[0])
    assert {path.name for path in tmp_path.rglob("*")} == {path.name for path in unkilled[0].rglob("*")}


@pytest.mark.slow
def test_without_any_score_the_last_checkpoint_is_kept_with_a_notice(tmp_path):
    with pytest.warns(Notice, match="identity has no value at any checkpoint; the adapter is that of the last"):
        adapter = run(tmp_path, lambda generated: math.nan)
    assert adapter.record["best_step"] == 8 and "best_identity" not in adapter.record
    assert steps_and_scores(tmp_path) == [(step, None) for step in STEPS]


@pytest.mark.slow
def test_the_last_step_is_a_candidate_whatever_the_interval_and_first_phases_are_not(tmp_path):
    run(tmp_path, scripted(0.2, 0.1), keep_best_every=0, save_every=3)
    assert steps_and_scores(tmp_path) == [(6, 0.2), (8, 0.1)]


@pytest.mark.slow
def test_a_lost_best_checkpoint_is_named_and_the_later_ones_are_compared(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, scripted(0.9, 0.3), killing_after(7))
    shutil.rmtree(tmp_path / "best")
    with pytest.warns(Notice, match="best/000005: missing; only later checkpoints are compared"):
        assert run(tmp_path, scripted(0.1, 0.2)).record["best_step"] == 8
    assert steps_and_scores(tmp_path) == [(7, 0.1), (8, 0.2)]


@pytest.mark.slow
def test_another_choice_of_checkpoint_is_another_run(unkilled, tmp_path):
    folder = shutil.copytree(unkilled[0], tmp_path / "run")
    with pytest.raises(ValueError, match='holds a run with keep_best "identity", not "style"'):
        run(folder, keep_best="style")
    with pytest.raises(ValueError, match="holds a run with keep_best_every 1, not 2"):
        run(folder, keep_best_every=2)
    run(folder, keep_best=None, keep_best_every=0, overwrite=True)
    assert read_checkpoint_scores(folder) == [] and len(read_steps(folder)) == 8
    assert "best_step" not in Adapter.load(folder / "adapter").record


def test_a_damaged_line_is_named(tmp_path):
    line = CheckpointScore(step=5, by="style", score=0.5).model_dump_json()
    (tmp_path / "checkpoint_scores.jsonl").write_text(f"{line}\n{line.replace('0.5', 'NaN')}\n")
    with pytest.raises(ValueError, match="checkpoint_scores.jsonl: line 2: .*Copy the file again, or remove it"):
        read_checkpoint_scores(tmp_path)


def test_of_equal_scores_the_later_is_the_best():
    scores = [CheckpointScore(step=step, by="style", score=score) for step, score in ((1, 0.5), (2, 0.5), (3, None))]
    assert best_of(scores).step == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep_best": "style", "keep_best_every": -1}, "keep_best_every: -1 is below 0"),
        ({"keep_best_every": 5}, "keep_best_every: no best checkpoint is kept. Name its score too"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RunOptions(**options)


def test_what_cannot_be_scored_is_refused_before_training(tmp_path):
    backend = tiny_backend()
    with pytest.raises(ValueError, match="score: missing, but keep_best is 'style'"):
        train_in_folder(tmp_path / "run", backend, *pictures(backend), METHOD, options=RunOptions(keep_best="style"))
    backend.strangers = None
    with pytest.raises(ValueError, match="identity_scaled needs portraits of strangers, which tiny does not have"):
        scorer("identity_scaled", backend, *pictures(backend))
    assert not (tmp_path / "run").exists()
