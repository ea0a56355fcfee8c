"""One worker of a grid: does the cells that no other worker does, until every cell is finished or has failed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from mcpkg.inference.adapter import Adapter
from mcpkg.inference.generate import generate_portraits
from mcpkg.method.interfaces import Backend
from mcpkg.metrics.evaluate import evaluate_portraits
from mcpkg.metrics.grid import cell_folder
from mcpkg.metrics.grid.cells import Grid, OpenCell, as_json, open_cells
from mcpkg.metrics.grid.table import CELLS_FOLDER, FIRST_PHASES_FOLDER, Plan, plan_of, write_plan, write_table
from mcpkg.training.first_phase import FirstPhase, train_first_phase
from mcpkg.training.run_folder import ADAPTER_FOLDER, train_in_folder
from mcpkg.util.errors import EXPECTED, one_line_notices
from mcpkg.util.folders import one_process, sweep

LOCKS_FOLDER = "locks"
WAIT_S = 1.0
"""Between two looks, while others work on all that is left."""


class Busy(Exception):
    """Another worker is at work on what is needed."""


def run_cells(grid: Grid) -> None:
    """Train, draw and score cells, each of them once among all workers; a killed worker's cells go on where it was.

    What fails ends its own cell only, which says why in its folder.

    Raises:
        OSError, ValueError: the models or a folder of pictures cannot be read, or `grid.out` not be written to.
    """
    backend = grid.load()
    if backend.device.type == "cpu":
        torch.set_num_threads(1)  # workers share the processor; and the adapter is the same, however many they are
    cells = open_cells(backend, grid.cells)
    plan = plan_of(grid, cells)
    write_results(grid, plan)
    _clear(grid, cells)
    left = list({cell.key: cell for cell in cells}.values())
    while left := [cell for cell in left if not _is_settled(grid, cell)]:
        for cell in left:
            try:
                _do_once(grid, backend, cell)
            except Busy:
                continue
            write_results(grid, plan)
            break  # others may have settled more of what is left meanwhile
        else:
            time.sleep(WAIT_S)


def try_cells(grid: Grid) -> Exception | None:
    """Run cells and return why that could not begin or go on; None if it could.

    Notices are one line each; an error that is a bug of ours is raised.
    """
    with one_line_notices():
        try:
            run_cells(grid)
        except EXPECTED as error:
            return error
    return None


def write_results(grid: Grid, plan: Plan) -> None:
    """Write how far the grid is: grid.json, the tables, and what `grid.on_cell` writes."""
    with locked(grid.out, "results", wait=True):
        sweep(grid.out)
        write_plan(grid.out, plan)
        write_table(grid.out, plan)
        if grid.on_cell is not None:
            grid.on_cell(grid.out)


def _clear(grid: Grid, cells: list[OpenCell]) -> None:
    """Delete what killed workers had not finished to write in folders that are not worked on now."""
    folders = {cell.key: folder_of(grid, cell) for cell in cells}
    folders |= {cell.first_phase_key: grid.out / FIRST_PHASES_FOLDER / cell.first_phase_key for cell in cells}
    for key, folder in folders.items():
        with suppress(Busy):
            if key and folder.is_dir():
                with locked(grid.out, key):
                    sweep(folder)


@contextmanager
def locked(out: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Within the block no other process has the lock of this name; it ends with the process, however that ends.

    Args:
        out: of the grid.
        wait: for the process that has it.

    Raises:
        Busy: another process has it.
    """
    folder = out / LOCKS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / f"{name}.lock").acquire(blocking=wait)
    except Timeout:
        raise Busy from None
    with lock:
        yield


def folder_of(grid: Grid, cell: OpenCell) -> Path:
    return grid.out / CELLS_FOLDER / cell.key


def _is_settled(grid: Grid, cell: OpenCell) -> bool:
    error = cell_folder.read_error(folder_of(grid, cell))
    failed = error is not None and error.request == grid.request
    return failed or _is_finished(folder_of(grid, cell), cell)


def _is_finished(folder: Path, cell: OpenCell) -> bool:
    return cell_folder.read_finished(folder, cell.scores_key, as_json(cell.cell.sampling)) is not None


def _do_once(grid: Grid, backend: Backend, cell: OpenCell) -> None:
    """Do all that a cell lacks.

    Raises:
        Busy: another worker does it, or trains the first phase that it needs.
    """
    folder = folder_of(grid, cell)
    with locked(grid.out, cell.key):
        if _is_settled(grid, cell):
            return
        try:
            with one_process(folder):
                (folder / cell_folder.ERROR_FILE).unlink(missing_ok=True)
                _train(grid, backend, cell, folder)
                _draw(backend, cell, folder)
                _score(backend, cell, folder)
        except Busy:
            raise
        except Exception as error:  # also a bug of ours, or too little memory: the other cells go on
            cell_folder.write_error(folder, error, grid.request)


def _train(grid: Grid, backend: Backend, cell: OpenCell, folder: Path) -> None:
    if cell_folder.is_trained(folder):
        return
    asked = cell.cell
    first_phase = _first_phase(grid, backend, cell)
    train_in_folder(
        folder, backend, cell.source, cell.reference, asked.method, asked.seed,
        precision=asked.precision, progress=False, first_phase=first_phase,
    )  # fmt: skip
    cell_folder.write_cell(folder, cell)


def _first_phase(grid: Grid, backend: Backend, cell: OpenCell) -> FirstPhase | None:
    """The first phase that the cell shares, trained now unless it was."""
    if cell.first_phase is None:
        return None
    folder = grid.out / FIRST_PHASES_FOLDER / cell.first_phase_key
    with locked(grid.out, cell.first_phase_key):
        return train_first_phase(
            folder, backend, cell.source, cell.reference, cell.first_phase, cell.cell.seed, cell.cell.precision
        )


def _draw(backend: Backend, cell: OpenCell, folder: Path) -> None:
    try:
        _, sampling, _ = cell_folder.read_drawn(folder)
        if sampling == as_json(cell.cell.sampling):
            return
    except (FileNotFoundError, ValueError):  # not drawn yet, or damaged: it can be drawn again
        pass
    started = time.perf_counter()
    adapter = Adapter.load(folder / ADAPTER_FOLDER)
    generated = generate_portraits(backend, adapter, sampling=cell.cell.sampling, capture=True)
    cell_folder.write_drawn(folder, generated, cell.cell.sampling, time.perf_counter() - started)


def _score(backend: Backend, cell: OpenCell, folder: Path) -> None:
    if _is_finished(folder, cell):
        return
    started = time.perf_counter()
    generated, _, _ = cell_folder.read_drawn(folder)
    scores = evaluate_portraits(backend, generated, cell.source, cell.reference, cell.cell.sampling.seed)
    cell_folder.write_scores(folder, cell, scores, time.perf_counter() - started)
