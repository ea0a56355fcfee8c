"""A training in a folder that can be resumed: killed at any moment, the same call continues it, to the same bits.

run.json                what is trained on what; anything else is refused
steps.jsonl             one line a step: loss terms, learning rates, seconds
previews/000100.png     portraits, their likeness and attention maps after so many steps; the likeness in .json too
tracker.txt             id of the run for a tracker, see `mcpkg.training.tracking`
checkpoint_scores.jsonl one line a score, if the best checkpoint is kept; see `mcpkg.training.keep_best`
checkpoint.safetensors  while it is not finished; likewise best/
adapter/                when it is
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import PartialState

from mcpkg import __version__
from mcpkg.data.portraits import Portraits
from mcpkg.inference.adapter import SUMMARY_FILE, Adapter
from mcpkg.inference.generate import Generated
from mcpkg.method.config import Method, to_dict
from mcpkg.method.interfaces import Backend
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.training.checkpoints import (
    ADVICE as CHECKPOINT_ADVICE,
    CHECKPOINT_FILE,
    STEPS_FILE,
    load_checkpoint,
    recorded,
    save_checkpoint,
    write_steps,
)
from mcpkg.training.first_phase import FirstPhase
from mcpkg.training.keep_best import BEST_FOLDER, CHECKPOINT_SCORES_FILE, best_checkpoint
from mcpkg.training.previews import draw_preview, preview_grid, preview_likeness
from mcpkg.training.progress import StepReport, TrainingState
from mcpkg.training.run_file import FORMAT, RUN_FILE, differences, read_run
from mcpkg.training.run_options import SETTINGS_FILE, RunOptions, check_tracker
from mcpkg.training.tracking import TRACKER_FILE, RunLog
from mcpkg.training.trainer import Training, open_training
from mcpkg.util.files import STAGED, explain_full_disk, finite, write_json
from mcpkg.util.folders import one_process, sweep
from mcpkg.util.images import save_image
from mcpkg.util.schema import sealed

ADAPTER_FOLDER, PREVIEWS_FOLDER = "adapter", "previews"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")


def train_in_folder(
    folder: str | Path,
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    method: Method = MAGICAPTURE,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
    precision: str | None = None,
    progress: bool = True,
    options: RunOptions = RunOptions(),
    score: Callable[[Generated], float] | None = None,
    first_phase: FirstPhase | None = None,
) -> Adapter:
    """Personalise as `personalise` does, but so that a killed run can go on: call it again with the same arguments.

    On a CPU the adapter is then, bit for bit, the one of a run that was never killed, if the machine, the number of
    threads and the libraries are the same (run.json notes them for every session). A finished run is only read.

    Args:
        folder: created if missing; empty, or of the same run.
        backend, source, reference, method, seed, on_step, precision, progress: see `personalise`.
        options: when to save, preview and log, and which checkpoint is kept.
        score: for `options.keep_best`, see `mcpkg.metrics.evaluate.scorer`.
        first_phase: of the same training, to go on from; by default it is trained here. The adapter is the same.

    Raises:
        ValueError: the folder holds something else or another run, its checkpoint is damaged, a number is out of
            range, or the tracker is not installed.
        OSError: no space left, the folder cannot be written, or another process is writing to it.
        FloatingPointError: the loss is no longer finite.
    """
    folder, process = Path(folder), PartialState(cpu=backend.device.type == "cpu")
    precision = precision or backend.precision
    settings = check_run(folder, backend, source, reference, method, seed, precision, options)
    check_tracker(options.log_with)
    tracker = options.log_with if process.is_main_process else None
    best = best_checkpoint(folder, options, score) if process.is_main_process else None
    with explain_full_disk(folder), one_process(folder):
        _prepare(folder, settings, options)  # checked again: only now does no other process change it
        sweep(folder, f".{ADAPTER_FOLDER}-*")  # as version 0.1.0 began the names of unfinished adapters
        if (folder / ADAPTER_FOLDER / SUMMARY_FILE).is_file():
            _clear(folder)  # killed just before this was done
            return Adapter.load(folder / ADAPTER_FOLDER)
        state_file = folder / CHECKPOINT_FILE
        state = load_checkpoint(state_file) if state_file.is_file() else None
        if state is None and first_phase is not None:
            state, state_file = first_phase.state, first_phase.file
            if process.is_main_process:
                write_steps(first_phase.steps, folder)
        if best is not None:
            best.go_on()
        process.wait_for_everyone()  # no process writes before all have looked
        with (
            open_training(backend, source, reference, method, seed, precision) as training,
            RunLog(tracker, folder) as log,
        ):
            if state is not None:
                _restore(training, state, state_file)
            if process.is_main_process:
                _note_session(folder, settings, training)
            done = training.steps_done
            log.start(done, {key: settings[key] for key in ("method", "seed", "precision")})  # no names of files
            for report in recorded(training.steps(progress), folder, done, process.is_main_process):
                done += 1
                if options.preview_every and done % options.preview_every == 0 and process.is_main_process:
                    _preview(training, source, folder, log, done)
                log.step(report, done)
                if on_step is not None:
                    on_step(report)
                if best is not None and best.is_due(training):
                    best.consider(training)
                if done % options.save_every == 0:
                    state = training.state()  # of all processes
                    if process.is_main_process:
                        save_checkpoint(state, folder / CHECKPOINT_FILE)
            adapter = training.adapter() if best is None else best.adapter(training)
        if process.is_main_process:
            adapter.save(folder / ADAPTER_FOLDER)
            _clear(folder)
        process.wait_for_everyone()
    return adapter if options.keep_best is None else Adapter.load(folder / ADAPTER_FOLDER)  # scored by one process


def _preview(training: Training, source: Portraits, folder: Path, log: RunLog, done: int) -> None:
    """Draw a preview after so many steps, and write it with the likeness of each of its portraits."""
    generated = draw_preview(training)
    likeness = preview_likeness(training.backend, generated, source)
    file, image = folder / PREVIEWS_FOLDER / f"{done:06d}.png", preview_grid(generated, likeness)
    save_image(image, file)
    write_json({"seeds": generated.seeds, "likeness": finite(likeness.tolist())}, file.with_suffix(".json"))
    log.preview(image, likeness, done)


def _clear(folder: Path) -> None:
    """Delete what a finished run no longer needs."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / BEST_FOLDER, ignore_errors=True)


def run_settings(
    backend: Backend, source: Portraits, reference: Portraits, method: Method, seed: int, precision: str
) -> dict:
    """All that the adapter depends on, as JSON says it; pictures and their masks as digests, by file name."""
    settings = {
        "method": to_dict(method),
        "backend": backend.name,
        "seed": seed,
        "precision": precision,
        "identity_network": type(backend.identity_trainer).__name__,
        "processes": PartialState().num_processes,
        "source": _digests(source),
        "reference": _digests(reference),
    }
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be when read again


def check_run(
    folder: str | Path,
    backend: Backend,
    source: Portraits,
    reference: Portraits,
    method: Method = MAGICAPTURE,
    seed: int = 0,
    precision: str | None = None,
    options: RunOptions = RunOptions(),
) -> dict:
    """Raise unless `train_in_folder` may start or continue there; return what the adapter depends on.

    Raises:
        ValueError: see `check_folder`; never with `options.overwrite`.
    """
    PartialState(cpu=backend.device.type == "cpu")
    settings = run_settings(backend, source, reference, method, seed, precision or backend.precision) | options.kept
    if not options.overwrite:
        check_folder(folder, settings)
    return settings


def _prepare(folder: Path, settings: dict, options: RunOptions) -> None:
    """Check the folder once more, or delete another run in it."""
    try:
        check_folder(folder, settings)
    except ValueError:
        if not options.overwrite:
            raise
        for name in (RUN_FILE, STEPS_FILE, CHECKPOINT_SCORES_FILE, TRACKER_FILE, f"{ADAPTER_FOLDER}/{SUMMARY_FILE}"):
            (folder / name).unlink(missing_ok=True)
        _clear(folder)
        shutil.rmtree(folder / PREVIEWS_FOLDER, ignore_errors=True)


def check_folder(folder: str | Path, settings: dict) -> None:
    """Raise unless a run of these settings may start or continue in the folder.

    Raises:
        ValueError: it holds other files, or a run of other settings; the message names them.
    """
    folder, file = Path(folder), Path(folder) / RUN_FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file. Give a folder.")
    if not file.is_file():
        others = sorted(path.name for path in folder.glob("*") if path.name != SETTINGS_FILE)
        others = [name for name in others if not name.endswith(STAGED)]
        if others:
            raise ValueError(f"{folder}: holds other files, such as {others[0]}. Give a new or empty folder.")
        return
    run = read_run(file)
    different = list(differences(run.settings, settings))
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise ValueError(f"{folder}: holds a run with {different[0]}{more}. Give the same to go on, or another folder.")


def _restore(training: Training, state: TrainingState, file: Path) -> None:
    try:
        if state.progress.phase >= len(training.method.phases):
            raise ValueError(f"phase {state.progress.phase + 1}: {training.method.name} has no such phase")
        training.restore(state)
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {CHECKPOINT_ADVICE}") from None


def _note_session(folder: Path, settings: dict, training: Training) -> None:
    """Write run.json, or add to it the session that goes on from the current step."""
    session = {
        "from_step": training.steps_done,
        "device": str(training.backend.device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {"mcpkg": __version__} | {name: version(name) for name in LIBRARIES},
    }
    file = folder / RUN_FILE
    earlier = [one.model_dump() for one in read_run(file).sessions] if file.is_file() else []
    write_json(sealed({"format": FORMAT, "settings": settings, "sessions": [*earlier, session]}), file)


def _digests(portraits: Portraits) -> dict[str, str]:
    """File name -> digest of the pixels and of which of them are face."""
    digests = {}
    for path, image, mask in zip(portraits.paths, portraits.images, portraits.faces.face_mask, strict=True):
        # a parser's masks may differ in their last bits from one session to the next
        parts = [(image * 255).round().byte(), (mask > 0.5).byte()]
        digests[path.name] = hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in parts)).hexdigest()[:16]
    return digests
