"""Grids of tiny cells in a folder."""

from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import MAGICAPTURE, ONE_PHASE, WITHOUT_REFOCUSING
from mcpkg.metrics.grid import Cell, Grid
from tests.helpers.tiny_backend import tiny_backend
from tests.helpers.tiny_folders import write_pair
from tests.helpers.tiny_training import short

METHODS = tuple(short(method, steps=3) for method in (MAGICAPTURE, WITHOUT_REFOCUSING, ONE_PHASE))


def tiny_cells(folder, methods=METHODS[:2], seeds=(0,), n=2):
    """Cells of every method and seed on one pair of pictures, which is written to the folder unless it is there."""
    pair = (folder / "subjects/ann", folder / "styles/chic") if (folder / "subjects").is_dir() else write_pair(folder)
    return tuple(Cell(method, *pair, seed, Sampling(n=n, seed=seed, steps=2)) for method in methods for seed in seeds)


def tiny_grid(folder, *args, **options):
    return Grid(tiny_cells(folder, *args, **options), folder / "out", tiny_backend)
