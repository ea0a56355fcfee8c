"""What a grid is made of, and the address of each cell: a digest of all that its training depends on."""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from accelerate import PartialState

from mcpkg.data.portraits import Portraits, load_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import Method
from mcpkg.method.interfaces import Backend
from mcpkg.metrics.grid.digests import code_digest, models_digest
from mcpkg.training.first_phase import first_phase_of
from mcpkg.training.run_folder import LIBRARIES, run_settings

TRAINING_CODE = ("method", "data", "inference", "training")
SCORING_CODE = ("metrics", "world", "util")
"""Packages of mcpkg that scores depend on, besides those that drawing depends on."""


@dataclass(frozen=True)
class Cell:
    """One training, the portraits that are drawn with it, and their scores."""

    method: Method
    """As it is trained: suited to the backend."""
    source: Path
    """Folder with photos of one person: who."""
    reference: Path
    """Folder with portraits of others that share a look: the style."""
    seed: int
    """Of the training."""
    sampling: Sampling
    """Of the portraits; with another one, a cell is drawn and scored again, but not trained."""
    mask_from: str = "files"
    """See `load_portraits`."""
    precision: str | None = None
    """See `personalise`."""


@dataclass(frozen=True)
class Grid:
    """Cells, the folder that they are kept in, and how a worker loads its models.

    A worker may run in another process or on another machine, so all of this can be pickled.
    """

    cells: tuple[Cell, ...]
    out: Path
    load: Callable[[], Backend]
    """Such as `functools.partial(load_backend, "mini")`."""
    on_cell: Callable[[Path], object] | None = None
    """Called with `out` when a cell is finished or has failed, by one worker at a time."""
    request: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of this run of the grid: what failed in it is not tried again before the next one."""


@dataclass(frozen=True)
class OpenCell:
    """A cell with its pictures loaded and its addresses known."""

    cell: Cell
    source: Portraits
    reference: Portraits
    contents: dict
    """All that the training depends on, as JSON has it."""
    first_phase: Method | None
    """The first phase that it can share, as a method of its own; None if there is none."""
    first_phase_key: str
    """Its address; empty if there is none."""
    scores_key: str
    """Digest of the code and the models that scores depend on."""

    @property
    def key(self) -> str:
        return address(self.contents)


def address(contents: dict) -> str:
    """The name of a folder for these contents: the first 16 digits of their SHA-256."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]


def open_cells(backend: Backend, cells: tuple[Cell, ...]) -> list[OpenCell]:
    """Load the pictures of all cells and compute their addresses.

    Raises:
        OSError, ValueError: see `load_portraits`.
    """
    PartialState(cpu=backend.device.type == "cpu")
    folders = {(path, cell.mask_from) for cell in cells for path in (cell.source, cell.reference)}
    portraits = {one: load_portraits(one[0], backend, mask_from=one[1]) for one in sorted(folders)}
    fixed = {
        "weights": models_digest(backend, "pipeline", "face_parser", "identity_trainer", "tiny_autoencoder"),
        "code": code_digest(*TRAINING_CODE),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    scorers = models_digest(backend, "face_parser", "identity_scorer", "style_reader", "aesthetic", "strangers")
    scores_key = address({"code": code_digest(*SCORING_CODE), "scorers": scorers})

    def open_cell(cell: Cell) -> OpenCell:
        pair = portraits[cell.source, cell.mask_from], portraits[cell.reference, cell.mask_from]
        precision, first = cell.precision or backend.precision, first_phase_of(cell.method)
        contents = run_settings(backend, *pair, cell.method, cell.seed, precision) | fixed
        key = address(run_settings(backend, *pair, first, cell.seed, precision) | fixed) if first else ""
        return OpenCell(cell, *pair, contents, first, key, scores_key)

    return [open_cell(cell) for cell in cells]


def as_json(sampling: Sampling) -> dict:
    """The sampling as JSON has it: tuples are lists."""
    return json.loads(json.dumps(asdict(sampling)))
