"""The page of a grid: the scores of its methods and of its cells, and every cell's portraits."""

from pathlib import Path

from mcpkg.metrics.grid.cell_folder import SHEET_FILE
from mcpkg.metrics.grid.table import COLUMNS, method_means, read_plan, rows_of, shown
from mcpkg.util.files import replace_whole
from mcpkg.viz.html import heading, linked, page, paragraph, table

OVERVIEW_FILE = "overview.html"


def write_overview(out: Path) -> Path:
    """Write the page of the grid that was last run there; return its path.

    Raises:
        FileNotFoundError, ValueError: see `read_plan`.
    """
    rows = rows_of(out, read_plan(out))
    finished, failed = sum(row.kept is not None for row in rows), sum(row.error is not None for row in rows)
    labels = [column.replace("_", " ") for column in COLUMNS]
    parts = [
        heading("Grid", 1),
        paragraph(f"{finished} of {len(rows)} cells are finished, {failed} have failed. table.csv has every score."),
        heading("Methods"),
        paragraph("Means over finished cells. Compare methods only where they have the same cells."),
        table(method_means(rows), ["method", "cells", *labels], range(1, len(labels) + 2)),
        heading("Cells"),
        table(
            [[", ".join(row.names), row.state, *(shown(row.mean(name)) for name in COLUMNS)] for row in rows],
            ["source, reference, method, seed", "state", *labels],
            range(2, len(labels) + 2),
        ),
        heading("Portraits"),
    ]
    for row in rows:
        if row.kept:
            file = (row.folder / SHEET_FILE).relative_to(out).as_posix()
            parts.append(linked(file, f"{', '.join(row.names)}: {row.folder.relative_to(out).as_posix()}"))
    with replace_whole(out / OVERVIEW_FILE) as partial:
        partial.write_text(page("Grid", parts), encoding="utf-8")
    return out / OVERVIEW_FILE
