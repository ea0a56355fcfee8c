"""Run a grid: start its workers, show how far they are, and end them."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from mcpkg.metrics.grid.cells import Grid
from mcpkg.metrics.grid.table import Plan, Row, is_settled, read_plan, rows_of, steps_done
from mcpkg.metrics.grid.worker import write_results
from mcpkg.util.progress import show_progress

LOOK_S = 1.0
"""Between two looks at the folder."""


@runtime_checkable
class Worker(Protocol):
    """A `WorkerProcess` or a `WorkerJob`, which say what these do."""

    def done(self) -> bool: ...

    def failure(self) -> Exception | None: ...

    def stop(self) -> None: ...

    def release(self) -> None: ...


def run_grid(grid: Grid, start: Callable[[Grid], Sequence[Worker]], progress: bool = True) -> list[Row]:
    """Run all cells that are not finished, and return every cell's row, in order.

    Interrupted, by ^C or otherwise, it ends its workers; the same call goes on where they were.

    Args:
        start: starts the workers, see `start_processes` and `submit_jobs`.
        progress: show a bar.

    Raises:
        OSError, ValueError: the models or pictures cannot be read, or no worker is left before all cells are done.
            A cell that fails raises nothing: its row says so.
    """
    workers = start(grid)
    try:
        plan = _wait_for_plan(grid, workers)
        _wait_for_cells(grid, plan, workers, progress)
    except BaseException:
        for worker in workers:
            worker.stop()
        raise
    for worker in workers:
        worker.release()
    write_results(grid, plan)  # a worker may have been released before it did
    return rows_of(grid.out, plan)


def _wait_for_plan(grid: Grid, workers: Sequence[Worker]) -> Plan:
    """What the workers are to do, once the first of them has loaded models and pictures."""
    while True:
        ended = all(worker.done() for worker in workers)  # asked first: a plan that is written meanwhile counts
        with suppress(FileNotFoundError, ValueError):  # none yet, or a damaged one, which the workers replace
            plan = read_plan(grid.out)
            if grid.request in plan.requests:
                return plan
        if ended:
            raise _failure(workers)
        time.sleep(LOOK_S)


def _wait_for_cells(grid: Grid, plan: Plan, workers: Sequence[Worker], progress: bool) -> None:
    left, total = {cell.key: cell for cell in plan.cells}, max(1, plan.steps)
    cells = len(left)
    with show_progress(total, "grid", "steps", steps_done(grid.out, plan), progress) as bar:
        while True:
            ended = all(worker.done() for worker in workers)
            left = {key: cell for key, cell in left.items() if not is_settled(grid.out, cell, grid.request)}
            bar.advance(max(0, steps_done(grid.out, plan) - bar.done), f"{cells - len(left)} of {cells} cells done")
            if not left:
                return
            if ended:
                raise _failure(workers)
            time.sleep(LOOK_S)


def _failure(workers: Sequence[Worker]) -> Exception:
    unknown = OSError("the workers ended before all cells were finished. Repeat the command to go on.")
    return next(filter(None, (worker.failure() for worker in workers)), unknown)
