"""How far a grid is: `grid.json`, which names its cells, and the tables of their scores."""

import csv
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcpkg.metrics.grid.cell_folder import ScoresFile, read_error, read_finished
from mcpkg.metrics.grid.cells import Grid, OpenCell, as_json
from mcpkg.training.checkpoints import STEPS_FILE
from mcpkg.util.files import replace_whole, write_json
from mcpkg.util.schema import Schema, check_json, read_text_of

CELLS_FOLDER, FIRST_PHASES_FOLDER = "cells", "first_phases"
PLAN_FILE, TABLE_FILE, TEXT_FILE = "grid.json", "table.csv", "table.md"
COLUMNS = ("identity_scaled", "identity", "style", "leakage_source", "leakage_reference", "collapse")
"""Scores in the text table; the other one has all."""
MOST_REQUESTS = 16
"""Kept in a plan: more runs of one grid at the same time are not expected."""
ADVICE = "Repeat the command that made it."


class PlannedCell(Schema):
    """One cell of a grid, and what has to be in its folder."""

    source: str
    reference: str
    method: str
    seed: int
    key: str
    """Name of its folder."""
    first_phase: str
    """Name of the folder of the first phase that it shares; empty if it shares none."""
    steps: list[int]
    """Of each phase."""
    sampling: dict[str, Any]
    scores_key: str


class Plan(Schema):
    """`grid.json`."""

    requests: list[str]
    """The runs of a grid of these very cells, as `Grid.request`; the last ones."""
    cells: list[PlannedCell]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole grid; a shared phase counts once."""
        own = {cell.key: sum(cell.steps[bool(cell.first_phase) :]) for cell in self.cells}
        shared = {cell.first_phase: cell.steps[0] for cell in self.cells if cell.first_phase}
        return sum(own.values()) + sum(shared.values())


@dataclass(frozen=True)
class Row:
    """One cell: what it is, and how far."""

    cell: PlannedCell
    folder: Path
    kept: ScoresFile | None
    """None until it is finished."""
    error: str | None
    """One line, if it failed."""

    @property
    def state(self) -> str:
        return "finished" if self.kept else f"failed: {self.error}" if self.error else "not finished"

    def mean(self, score: str) -> float | None:
        """Mean of one of the `Scores`; None if the cell or the score has none."""
        value = (self.kept.scores if self.kept else {}).get(score)
        return value["mean"] if isinstance(value, dict) else value

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Source, reference, method and seed, for people."""
        cell = self.cell
        return Path(cell.source).name, Path(cell.reference).name, cell.method, str(cell.seed)

    def as_dict(self) -> dict:
        """Ready for JSON."""
        cell = self.cell.model_dump(include={"source", "reference", "method", "seed"})
        scores = self.kept.scores if self.kept else None
        return cell | {"folder": str(self.folder), "state": self.state, "scores": scores}


def plan_of(grid: Grid, cells: Iterable[OpenCell]) -> Plan:
    """What there is to do."""
    planned = [
        PlannedCell(
            source=str(one.cell.source),
            reference=str(one.cell.reference),
            method=one.cell.method.name,
            seed=one.cell.seed,
            key=one.key,
            first_phase=one.first_phase_key,
            steps=[phase.steps for phase in one.cell.method.phases],
            sampling=as_json(one.cell.sampling),
            scores_key=one.scores_key,
        )
        for one in cells
    ]
    return Plan(requests=[grid.request], cells=planned)


def write_plan(out: Path, plan: Plan) -> None:
    """Write a plan in place of the one there; of the same cells, the requests of both stay."""
    before: list[str] = []
    with suppress(FileNotFoundError, ValueError):  # none, or a damaged one
        there = read_plan(out)
        before = there.requests if there.cells == plan.cells else []
    requests = [*dict.fromkeys([*before, *plan.requests])][-MOST_REQUESTS:]
    write_json({"requests": requests, **plan.model_dump(exclude={"requests"})}, out / PLAN_FILE)


def read_plan(out: Path) -> Plan:
    """What `write_plan` wrote.

    Raises:
        FileNotFoundError: no grid was run there.
        ValueError: the file is damaged.
    """
    return check_json(read_text_of(out / PLAN_FILE, ADVICE), Plan, out / PLAN_FILE, ADVICE)


def rows_of(out: Path, plan: Plan) -> list[Row]:
    """Every cell of the plan, in its order."""
    rows = []
    for cell in plan.cells:
        folder = out / CELLS_FOLDER / cell.key
        error = read_error(folder)
        rows.append(Row(cell, folder, _kept(folder, cell), error.error if error else None))
    return rows


def is_settled(out: Path, cell: PlannedCell, request: str) -> bool:
    """Whether the cell is finished, or has failed in this run of the grid."""
    folder = out / CELLS_FOLDER / cell.key
    error = read_error(folder)
    return (error is not None and error.request == request) or _kept(folder, cell) is not None


def _kept(folder: Path, cell: PlannedCell) -> ScoresFile | None:
    return read_finished(folder, cell.scores_key, cell.sampling)


def steps_done(out: Path, plan: Plan) -> int:
    """Optimiser steps that were taken so far, of `Plan.steps`."""
    own, shared = {}, {}
    for cell in plan.cells:
        at = _lines(out / CELLS_FOLDER / cell.key / STEPS_FILE)
        first = cell.steps[0] if cell.first_phase else 0
        own[cell.key] = max(0, at - first)
        if cell.first_phase:
            shared[cell.first_phase] = min(first, _lines(out / FIRST_PHASES_FOLDER / cell.first_phase / STEPS_FILE))
    return min(plan.steps, sum(own.values()) + sum(shared.values()))


def _lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def write_table(out: Path, plan: Plan) -> None:
    """Write table.csv, a line a cell with the mean of every score, and table.md, with means over cells."""
    rows = rows_of(out, plan)
    scores = list(dict.fromkeys(name for row in rows if row.kept for name in row.kept.scores))
    with replace_whole(out / TABLE_FILE) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "reference", "method", "seed", "folder", "state", *scores])
        for row in rows:
            cell = row.cell
            means = ["" if (mean := row.mean(name)) is None else mean for name in scores]
            writer.writerow([cell.source, cell.reference, cell.method, cell.seed, row.folder, row.state, *means])
    with replace_whole(out / TEXT_FILE) as partial:
        partial.write_text(f"{table_text(rows)}\n")


def table_text(rows: Sequence[Row]) -> str:
    """The tables in Markdown: each method's means over its finished cells, then every cell."""
    cells = _markdown(["source", "reference", "method", "seed", "state", *COLUMNS], [
        [*row.names, row.state, *(shown(row.mean(name)) for name in COLUMNS)] for row in rows
    ])  # fmt: skip
    return f"{means_text(rows)}\n\n{cells}"


def means_text(rows: Sequence[Row]) -> str:
    """The first of these tables."""
    return _markdown(["method", "cells", *COLUMNS], method_means(rows))


def method_means(rows: Sequence[Row]) -> list[list[str]]:
    """Method, number of finished cells, and the mean of each of `COLUMNS` over them, each cell weighing the same."""
    lines = []
    for method in dict.fromkeys(row.cell.method for row in rows):
        finished = [row for row in rows if row.cell.method == method and row.kept]
        means = []
        for name in COLUMNS:
            values = [mean for row in finished if (mean := row.mean(name)) is not None]
            means.append(shown(sum(values) / len(values) if values else None))
        lines.append([method, str(len(finished)), *means])
    return lines


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned for those who read it as it is."""
    lines = [[cell.replace("|", "/") for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
