"""mcpkg demo (python -m mcpkg.cli.demo): one person in one style, with and without Attention Refocusing."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from mcpkg.backends import BACKENDS
from mcpkg.cli.outputs import Overwrite, check_output
from mcpkg.inference.sampling import Sampling
from mcpkg.util.cores import usable_cores

SAMPLES = Path("data_samples")


def run_demo(
    source: Path | None = None,
    reference: Path | None = None,
    out: Path = Path("runs/demo"),
    backend: Literal[tuple(BACKENDS)] = next(iter(BACKENDS)),
    seed: int = 0,
    n: int = 8,
    overwrite: Overwrite = False,
) -> None:
    """Personalise on a pair, with and without Attention Refocusing, and write sheets, scores and a report. If it is
    killed, repeat the command to continue.

    Args:
        source: folder with photos of one person; by default the first of the samples.
        reference: folder with portraits in one style; by default the first of the samples.
        out: folder for portraits.png, attention.png, scores.json, report.html and the adapter; the two runs are in its
            folder cells.
        backend: which models.
        seed: of training; image i starts from seed + i.
        n: how many portraits.
    """
    source, reference = source or _first("subjects"), reference or _first("styles")
    output = check_output("demo", locals(), (source, reference))
    check_input((source, reference), n)

    from mcpkg.cli.options import SamplingOptions

    SamplingOptions(n=n, seed=seed)  # as a check

    from mcpkg.backends import load_backend, tune_without_models
    from mcpkg.cli.results import write_results
    from mcpkg.data.portraits import load_portraits
    from mcpkg.method.methods import MAGICAPTURE, WITHOUT_REFOCUSING
    from mcpkg.metrics.grid import Cell, Grid, read_outcome, run_grid, start_processes
    from mcpkg.metrics.scores import score_table

    load, sampling = partial(load_backend, backend), Sampling(n=n, seed=seed)
    methods = [tune_without_models(backend, method) for method in (MAGICAPTURE, WITHOUT_REFOCUSING)]
    cells = tuple(Cell(method, source, reference, seed, sampling) for method in methods)
    with output.writing():
        workers = min(len(cells), usable_cores())
        rows = run_grid(Grid(cells, out, load), partial(start_processes, workers=workers))
        for row in rows:
            if row.kept is None:
                raise ValueError(f"{row.cell.method}: {row.error}")
        full, ablated = (read_outcome(row.folder) for row in rows)
        models = load()
        pair = load_portraits(source, models), load_portraits(reference, models)
        full.adapter.save(out / "adapter")
        report = write_results(out, models, *pair, full, ablated)
    print(score_table({outcome.name: outcome.scores for outcome in (full, ablated)}))
    print(f"\n{report}")


def check_input(folders: Sequence[Path], n: int) -> None:
    """Raise on bad input before anything is loaded or trained.

    Raises:
        ValueError: n is below 1.
        OSError: a folder is missing or holds no image.
    """
    from mcpkg.data.image_folders import find_images

    if n < 1:
        raise ValueError(f"--n: {n} is below 1. Ask for at least one portrait.")
    for folder in folders:
        find_images(folder)


def _first(kind: str) -> Path:
    from mcpkg.world.sample_folders import ensure_samples

    folders = sorted(path for path in (ensure_samples(SAMPLES) / kind).glob("*") if path.is_dir())
    if not folders:
        render = f"python -m mcpkg.world.samples --out {SAMPLES} renders them"
        raise FileNotFoundError(f"{SAMPLES / kind}: no samples. Give --source and --reference; or {render}.")
    return folders[0]


if __name__ == "__main__":
    import sys

    from mcpkg.cli.running import run_command

    run_command({"demo": run_demo}, ["demo", *sys.argv[1:]])
