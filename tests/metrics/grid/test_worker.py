from dataclasses import replace

import pytest
import torch

from mcpkg.data.portraits import load_portraits
from mcpkg.metrics.compare import judge
from mcpkg.metrics.grid import cells, read_outcome, worker
from mcpkg.metrics.grid.table import read_plan, rows_of
from mcpkg.metrics.scores import scores_to_json
from mcpkg.training.trainer import Training, personalise
from tests.helpers.tiny_backend import tiny_backend
from tests.helpers.tiny_folders import write_pictures
from tests.helpers.tiny_grid import METHODS, tiny_cells, tiny_grid

pytestmark = pytest.mark.slow


def learned(adapter):
    return adapter.embeddings | adapter.lora


def same(one, other):
    return all(torch.equal(value, learned(other)[name]) for name, value in learned(one).items())


def alone(cell):
    backend = tiny_backend()
    pair = [load_portraits(folder, backend) for folder in (cell.source, cell.reference)]
    adapter = personalise(backend, *pair, cell.method, cell.seed, progress=False)
    return adapter, judge(backend, adapter, *pair, cell.sampling)


def rows(grid):
    return rows_of(grid.out, read_plan(grid.out))


@pytest.fixture
def calls(monkeypatch):
    """How often a step was taken, portraits were drawn, and portraits were scored."""
    counts = {"steps": 0, "drawn": 0, "scored": 0}

    def counted(name, function):
        def call(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(Training, "_take_step", counted("steps", Training._take_step))
    monkeypatch.setattr(worker, "generate_portraits", counted("drawn", worker.generate_portraits))
    monkeypatch.setattr(worker, "evaluate_portraits", counted("scored", worker.evaluate_portraits))
    return counts


def test_cells_that_share_a_first_phase_learn_what_they_learn_alone(tmp_path, calls):
    grid = tiny_grid(tmp_path, METHODS)
    worker.run_cells(grid)
    # a first phase of 3 steps for the first two, 3 more for each of them, and 3 for the one that has one phase only
    assert calls == {"steps": 12, "drawn": 3, "scored": 3}
    for cell, row in zip(grid.cells, rows(grid), strict=True):
        kept, (adapter, outcome) = read_outcome(row.folder), alone(cell)
        assert same(kept.adapter, adapter) and kept.adapter.method == cell.method
        assert [(step["phase"], step["step"]) for step in kept.history] == [
            (number, step) for number, phase in enumerate(cell.method.phases) for step in range(phase.steps)
        ]
        assert torch.equal(kept.generated.images, outcome.generated.images)
        assert kept.generated.seeds == outcome.generated.seeds and kept.generated.prompt == outcome.generated.prompt
        assert torch.equal(kept.generated.maps.heatmap("source"), outcome.generated.maps.heatmap("source"))
        assert kept.generated.maps.timesteps == outcome.generated.maps.timesteps
        assert scores_to_json(kept.scores) == scores_to_json(outcome.scores)


def test_what_is_finished_is_not_repeated(tmp_path, calls, monkeypatch):
    worker.run_cells(tiny_grid(tmp_path))
    before = dict(calls)
    worker.run_cells(tiny_grid(tmp_path))
    assert calls == before
    worker.run_cells(tiny_grid(tmp_path, n=3))  # drawn and scored again, but not trained
    assert calls == {"steps": before["steps"], "drawn": 4, "scored": 4}
    monkeypatch.setattr(cells, "code_digest", lambda *packages: "another" if "metrics" in packages else "as before")
    monkeypatch.setattr(cells, "models_digest", lambda *_: "as before")
    worker.run_cells(grid := tiny_grid(tmp_path, n=3))
    before = dict(calls)
    monkeypatch.setattr(cells, "code_digest", lambda *packages: "a new one" if "metrics" in packages else "as before")
    worker.run_cells(replace(grid, request="later"))  # a new metric: scored from what was drawn
    assert calls == before | {"scored": before["scored"] + 2}


def test_a_worker_killed_at_any_step_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    left, take_step, drawn = [], Training._take_step, worker.cell_folder.write_drawn

    def step(training, phase):
        if not left or left.pop():
            raise Killed
        return take_step(training, phase)

    monkeypatch.setattr(Training, "_take_step", step)
    monkeypatch.setattr("mcpkg.training.run_options.RunOptions.save_every", 2)
    grid = tiny_grid(tmp_path)
    for steps in (1, 2, 1, 2, 0):
        left[:] = [False] * steps
        with pytest.raises(Killed):
            worker.run_cells(grid)
    left[:] = [False] * 50
    monkeypatch.setattr(worker.cell_folder, "write_drawn", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        worker.run_cells(grid)
    monkeypatch.setattr(worker.cell_folder, "write_drawn", drawn)
    worker.run_cells(grid)
    assert not list(grid.out.rglob("*.mcpkg-part")) and not list(grid.out.rglob("checkpoint.safetensors"))
    monkeypatch.setattr(Training, "_take_step", take_step)
    assert all(same(read_outcome(row.folder).adapter, alone(cell)[0]) for cell, row in zip(grid.cells, rows(grid)))


def test_a_cell_that_fails_leaves_a_line_and_the_others_go_on(tmp_path):
    # the tiny backend has no second autoencoder
    bad = replace(METHODS[0], name="bad", identity_decoding="tiny")
    grid = tiny_grid(tmp_path, (bad, METHODS[2]))
    worker.run_cells(grid)
    failed, finished = rows(grid)
    assert failed.kept is None and "tiny" in failed.error and finished.kept is not None
    assert "failed: " in (grid.out / "table.md").read_text()
    assert (failed.folder / "error.json").stat().st_mtime_ns
    first = (failed.folder / "error.json").stat().st_mtime_ns
    worker.run_cells(grid)
    assert (failed.folder / "error.json").stat().st_mtime_ns == first  # not tried again in the same run
    worker.run_cells(replace(grid, request="later"))
    assert (failed.folder / "error.json").stat().st_mtime_ns > first


def test_a_cell_or_a_first_phase_that_another_worker_has_is_left_to_it(tmp_path):
    grid, backend = tiny_grid(tmp_path), tiny_backend()
    one, other = cells.open_cells(backend, grid.cells)
    assert one.first_phase_key == other.first_phase_key and one.key != other.key
    for name in (one.key, one.first_phase_key):
        with worker.locked(grid.out, name), pytest.raises(worker.Busy):
            worker._do_once(grid, backend, one)
    assert not list((grid.out / "cells").glob("*/error.json"))


def test_a_bad_picture_ends_the_grid_before_anything_is_trained(tmp_path):
    grid = tiny_grid(tmp_path)
    (tmp_path / "subjects/ann/9.png").write_text("no picture")
    with pytest.raises(ValueError, match="9.png"):
        worker.run_cells(grid)
    assert not (grid.out / "cells").exists()


def test_the_address_is_that_of_the_contents(tmp_path, monkeypatch):
    backend = tiny_backend()

    def address(cell, of=backend):
        (opened,) = cells.open_cells(of, (cell,))
        return opened.key

    (cell,) = tiny_cells(tmp_path, METHODS[:1])
    before = address(cell)
    copied = replace(cell, source=cell.source.rename(tmp_path / "elsewhere"))
    assert address(copied) == before == address(replace(copied, sampling=replace(cell.sampling, n=5)))
    changed = {
        "seed": address(replace(copied, seed=1)),
        "method": address(replace(copied, method=replace(cell.method, lora_rank=2))),
        "precision": address(replace(copied, precision="bf16")),
        "weights": address(copied, tiny_backend(seed=5)),
        "pictures": address(replace(copied, source=write_pictures(tmp_path / "bea", seed=7))),
    }
    monkeypatch.setattr(cells, "code_digest", lambda *packages: "changed")
    changed["code"] = address(copied)
    assert len({before, *changed.values()}) == 7
