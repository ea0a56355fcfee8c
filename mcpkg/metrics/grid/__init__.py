"""Runs of many cells, each a method on a source, a reference and a seed: on one machine or a cluster, each cell once.

OUT/cells/<key>/          one cell, see `mcpkg.metrics.grid.cell_folder`
OUT/first_phases/<key>/   a first phase that cells share, see `mcpkg.training.first_phase`
OUT/locks/                empty files: who works on what
OUT/grid.json             which cells there are
OUT/table.csv, table.md   their scores, rewritten after each cell
"""

from typing import TYPE_CHECKING

from mcpkg.util.lazy import lazy_exports

if TYPE_CHECKING:
    from mcpkg.metrics.grid.cell_folder import read_outcome as read_outcome
    from mcpkg.metrics.grid.cells import Cell as Cell, Grid as Grid
    from mcpkg.metrics.grid.processes import start_processes as start_processes
    from mcpkg.metrics.grid.running import run_grid as run_grid
    from mcpkg.metrics.grid.table import Row as Row

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
