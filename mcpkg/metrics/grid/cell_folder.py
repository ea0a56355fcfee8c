"""The folder of one cell: a run of `mcpkg.training.run_folder`, and what was made with its adapter.

cell.json           what the cell is; the folder's name is a digest of its `contents`
run.json, steps.jsonl, checkpoint.safetensors, adapter/
drawn.safetensors   the portraits and their attention maps, in 32 bits, so that new scores need no drawing
portraits.png       the portraits side by side
scores.json         their scores
error.json          why there are no scores
"""

import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mcpkg.inference.adapter import SUMMARY_FILE, Adapter
from mcpkg.inference.generate import Generated
from mcpkg.inference.sampling import Sampling
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.metrics.compare import Outcome
from mcpkg.metrics.grid.cells import OpenCell, as_json
from mcpkg.metrics.grid.digests import tensors_digest
from mcpkg.metrics.scores import Scores, scores_from_json, scores_to_json
from mcpkg.training.checkpoints import read_steps
from mcpkg.training.run_folder import ADAPTER_FOLDER
from mcpkg.util.errors import describe_error, first_line
from mcpkg.util.files import finite, write_json
from mcpkg.util.images import save_image
from mcpkg.util.safetensors_io import read_weights, write_weights
from mcpkg.util.schema import Schema, check_json, read_sealed, sealed

CELL_FILE, DRAWN_FILE, SHEET_FILE = "cell.json", "drawn.safetensors", "portraits.png"
SCORES_FILE, ERROR_FILE = "scores.json", "error.json"
FORMAT = "mcpkg cell 1"
ADVICE = "Remove this file, and repeat the command that made it."
_DRAWN_KEY = "drawn"  # of the file's metadata


class _Drawn(Schema):
    """What `drawn.safetensors` holds beside its tensors."""

    sampling: dict[str, Any]
    seeds: tuple[int, ...]
    prompt: str
    settings: dict[str, Any]
    passes: int
    """Denoising steps that the maps are means over."""
    seconds: float
    sha256: str
    """Of all tensors and their names."""


class ScoresFile(Schema):
    """`scores.json`."""

    key: str
    """Digest of the code and the models that judged."""
    sampling: dict[str, Any]
    seconds: float
    scores: dict[str, Any]
    images: dict[str, Any]
    """The scores of each image."""
    sha256: str


class ErrorFile(Schema):
    """`error.json`."""

    error: str
    """One line: what is wrong, and what to do."""
    request: str
    """The run of the grid in which it happened."""
    traceback: str


def is_trained(folder: Path) -> bool:
    return (folder / CELL_FILE).is_file() and (folder / ADAPTER_FOLDER / SUMMARY_FILE).is_file()


def write_cell(folder: Path, cell: OpenCell) -> None:
    """Say in the folder what it holds."""
    folders = {"source": str(cell.cell.source), "reference": str(cell.cell.reference)}
    write_json(sealed({"format": FORMAT, **folders, "contents": cell.contents}), folder / CELL_FILE)


def write_drawn(folder: Path, generated: Generated, sampling: Sampling, seconds: float) -> None:
    """Keep portraits and their attention maps."""
    maps = generated.maps
    tensors = {"images": generated.images.cpu()}
    tensors |= {f"rows {role}": rows for role, rows in maps.rows.items()}
    tensors |= {f"maps {role} {layer}": m for role, of_role in maps.maps.items() for layer, m in of_role.items()}
    drawn = _Drawn(
        sampling=as_json(sampling),
        seeds=generated.seeds,
        prompt=generated.prompt,
        settings=generated.settings,
        passes=maps.passes,
        seconds=seconds,
        sha256=tensors_digest(tensors),
    )
    save_image(torch.cat(list(generated.images), dim=-1), folder / SHEET_FILE)
    write_weights(tensors, folder / DRAWN_FILE, {_DRAWN_KEY: drawn.model_dump_json()})


def read_drawn(folder: Path) -> tuple[Generated, dict, float]:
    """The portraits with their maps, their sampling as JSON, and the seconds that drawing took.

    Raises:
        FileNotFoundError: nothing was drawn.
        ValueError: the file is damaged.
    """
    path = folder / DRAWN_FILE
    # copied to where torch puts its own tensors: sums may depend, in their last bits, on where memory begins
    tensors = {name: tensor.clone() for name, tensor in read_weights(path).items()}
    with safe_open(path, "pt") as file:
        drawn = check_json((file.metadata() or {}).get(_DRAWN_KEY, ""), _Drawn, path, ADVICE)
    if tensors_digest(tensors) != drawn.sha256:
        raise ValueError(f"{path}: its checksum differs: it was damaged. {ADVICE}")
    rows: dict[str, Tensor] = {}
    maps: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(" ")
        role, _, layer = rest.partition(" ")
        if kind == "rows":
            rows[role] = tensor
        elif kind == "maps":
            maps.setdefault(role, {})[layer] = tensor
    kept = AttentionMaps.of_means(maps, rows, drawn.passes)
    generated = Generated(tensors["images"], drawn.seeds, drawn.prompt, kept, drawn.settings)
    return generated, drawn.sampling, drawn.seconds


def write_scores(folder: Path, cell: OpenCell, scores: Scores, seconds: float) -> None:
    """Keep scores, with what they were made by."""
    values = {"key": cell.scores_key, "sampling": as_json(cell.cell.sampling), "seconds": seconds}
    write_json(sealed(values | finite(scores_to_json(scores))), folder / SCORES_FILE)


def read_finished(folder: Path, scores_key: str, sampling: dict) -> ScoresFile | None:
    """The scores, if they are those of this sampling, by the models and the code of this key; else None."""
    try:
        kept = read_sealed(folder / SCORES_FILE, ScoresFile, ADVICE)
    except (FileNotFoundError, ValueError):  # not scored yet, or damaged: it can be scored again
        return None
    return kept if (kept.key, kept.sampling) == (scores_key, sampling) and is_trained(folder) else None


def write_error(folder: Path, error: Exception, request: str) -> None:
    """Keep why a cell failed."""
    line = describe_error(error) or f"{type(error).__name__}: {first_line(error)}"
    details = "".join(traceback.format_exception(error))
    write_json({"error": line, "request": request, "traceback": details}, folder / ERROR_FILE)


def read_error(folder: Path) -> ErrorFile | None:
    """Why the cell failed; None if it did not."""
    try:
        return check_json((folder / ERROR_FILE).read_bytes(), ErrorFile, folder / ERROR_FILE, ADVICE)
    except (FileNotFoundError, ValueError):  # it did not, or the file is damaged: it can be tried again
        return None


def read_outcome(folder: str | Path) -> Outcome:
    """A finished cell, as `judge` gives it.

    Raises:
        FileNotFoundError: it is not finished.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    adapter = Adapter.load(folder / ADAPTER_FOLDER)
    generated, _, drawing_s = read_drawn(folder)
    kept = read_sealed(folder / SCORES_FILE, ScoresFile, ADVICE)
    seconds = adapter.record.get("seconds", 0.0) + drawing_s + kept.seconds
    scores = scores_from_json(kept.scores, kept.images)
    return Outcome(adapter, generated, scores, tuple(read_steps(folder)), seconds=seconds)
