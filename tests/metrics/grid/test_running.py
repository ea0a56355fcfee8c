import csv
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from mcpkg.metrics.grid import read_outcome, run_grid, start_processes
from mcpkg.metrics.grid.cluster import check_cluster, submit_jobs
from mcpkg.metrics.grid.processes import WorkerProcess, _environment
from mcpkg.metrics.grid.table import read_plan, steps_done
from mcpkg.training.run_file import read_run
from mcpkg.viz.grid_overview import write_overview
from tests.helpers.tiny_grid import tiny_grid


def sessions(rows):
    """How often each cell's training was begun."""
    return [len(read_run(row.folder / "run.json").sessions) for row in rows]


@pytest.mark.slow
def test_two_grids_of_one_worker_each_do_each_cell_once(tmp_path, capfd):
    grid = replace(tiny_grid(tmp_path, seeds=(0, 1)), on_cell=write_overview)
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(run_grid, replace(grid, request=name), start_processes_of(1)) for name in "ab"]
    first, second = (run.result() for run in runs)
    assert first == second and all(row.kept for row in first)
    assert sessions(first) == [1, 1, 1, 1]
    assert {first[0].mean("style"), first[1].mean("style")} == {
        read_outcome(row.folder).scores.style.mean for row in first[:2]
    }
    with (grid.out / "table.csv").open() as file:
        assert [line["state"] for line in csv.DictReader(file)] == ["finished"] * 4
    page = (grid.out / "overview.html").read_text()
    assert "4 of 4 cells are finished" in page and all(row.cell.key in page for row in first)
    plan = read_plan(grid.out)
    assert steps_done(grid.out, plan) == plan.steps == 2 * 3 + 4 * 3  # two first phases, four second ones
    assert set(plan.requests) == {"a", "b"}


def start_processes_of(workers):
    return partial(start_processes, workers=workers)


@pytest.mark.slow
def test_an_interrupted_grid_ends_its_workers(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_grid(tiny_grid(tmp_path), lambda grid: [Interrupted(grid)])
    assert not multiprocessing.active_children()


class Interrupted(WorkerProcess):
    """A worker during which ^C is pressed."""

    def done(self):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_what_keeps_workers_from_beginning_is_raised(tmp_path):
    grid = tiny_grid(tmp_path)
    (tmp_path / "subjects/ann/9.png").write_text("no picture")
    with pytest.raises(ValueError, match="9.png"):
        run_grid(grid, start_processes_of(2))


@pytest.mark.slow
def test_jobs_of_a_cluster_do_the_same(tmp_path):
    grid = tiny_grid(tmp_path)
    options = check_cluster(("cluster=local", "time=5"))
    rows = run_grid(grid, partial(submit_jobs, workers=2, options=options))
    assert all(row.kept for row in rows) and sessions(rows) == [1, 1]


@pytest.mark.parametrize(
    "given, message",
    [
        ("gpu", "'gpu' is not name=value"),
        ("partition=", "is not name=value"),
        ("cluster=cloud", "cluster=cloud unknown. Choose from slurm, local, debug"),
        ("time=1h", "time=1h is no whole number of minutes"),
    ],
)
def test_options_of_a_cluster_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        check_cluster((given,))


def test_a_variable_of_a_worker_is_not_left_behind(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with _environment({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")
    assert os.environ["OMP_NUM_THREADS"] == "7" and "OMP_WAIT_POLICY" not in os.environ
