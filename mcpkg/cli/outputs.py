"""Where commands write: checked before anything is loaded, then locked and marked as ours before anything is written.

settings.json in the folder is the mark. It says which commands wrote there and with which options, and it can be given
to `--config`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mcpkg import __version__
from mcpkg.training.run_options import OVERWRITE_HELP, SETTINGS_FILE
from mcpkg.util.files import write_json
from mcpkg.util.folders import check_unused, is_first_process, one_process

Overwrite = Annotated[bool, tyro.conf.arg(help=OVERWRITE_HELP)]

_RESULTS = ("portraits/*", "portraits.png", "attention.png", "losses.png", "scores.json", "report.html")
_TABLES = ("grid.json", "table.csv", "table.md", "overview.html")
WRITES = {
    "train": _RESULTS,  # the files of its training are checked by `mcpkg.training.run_folder`
    "generate": ("seed_*.png",),
    "evaluate": _RESULTS,
    "leakage": ("leakage.csv",),
    "knock": ("knockout.json", "knockout.png"),
    "masks": ("source_masks.png", "reference_masks.png"),
    "export": ("README.md", "adapter.json", "*.safetensors", "webui/*"),
    "demo": (*_RESULTS, "adapter/*", "cells/*", "first_phases/*", "locks/*", *_TABLES),
    "grid": ("cells/*", "first_phases/*", "locks/*", "jobs/*", *_TABLES),
}
"""Command -> patterns of the files that it writes."""
_PREFIXED = ("weights", "refocusing")  # options such as --weights.identity
_NOT_KEPT = ("overwrite", "as_json")


@dataclass(frozen=True)
class Output:
    """The folder that a command writes to."""

    command: str
    folder: Path
    settings: dict
    """The command's options, for settings.json."""

    @contextmanager
    def writing(self, alone: bool = True) -> Iterator[None]:
        """Within the block the folder is marked, and this process's own.

        Args:
            alone: False if other processes may write there too.

        Raises:
            OSError: another process is writing there, or the folder cannot be written.
        """
        if not is_first_process():
            yield
            return
        with one_process(self.folder) if alone else nullcontext():
            file = self.folder / SETTINGS_FILE
            is_new = not file.exists()
            write_json(_marks(self.folder) | {"mcpkg": __version__, self.command: self.settings}, file)
            try:
                yield
            finally:
                if is_new and list(self.folder.iterdir()) == [file]:  # it failed before it wrote anything
                    file.unlink()
                    if not alone:
                        self.folder.rmdir()


def check_output(command: str, options: Mapping, inputs: Iterable[Path | None] = ()) -> Output:
    """Check the folder that a command is to write to; nothing is written.

    Args:
        options: the command's own, with `out`; also `overwrite`, in which case only a file in the folder's place is
            refused.
        inputs: folders of pictures that the command reads; None where there is none.

    Raises:
        ValueError: it is a file, lies in or around a folder of pictures, or holds files of these names that mcpkg did
            not write.
        OSError: it cannot be written, or another process is writing there.
    """
    out = Path(options["out"])
    place = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"{place}: is a file. Give a folder.")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place}: you may not write there. Give another folder.")
    if not options.get("overwrite") and not getattr(options.get("run"), "overwrite", False):
        for folder in filter(None, inputs):
            if out.resolve() in (folder.resolve(), *folder.resolve().parents):
                where = "is" if out.resolve() == folder.resolve() else "is around"
            elif folder.resolve() in out.resolve().parents:
                where = "lies in"
            else:
                continue
            raise ValueError(f"--out {out}: {where} the folder of pictures {folder}, and what is written there would "
                             "pass for pictures later. Give another folder, or add --overwrite.")  # fmt: skip
        if foreign := next(_foreign(command, out), None):
            raise ValueError(f"{foreign}: is there already, and not from mcpkg {command}. Give another folder, or add "
                             "--overwrite to replace it.")  # fmt: skip
    check_unused(out)
    return Output(command, out, as_settings(options))


def as_settings(options: Mapping) -> dict:
    """A command's options as JSON has them, by the names of their flags; those that were not given are left out."""
    settings = {}
    for name, value in options.items():
        if is_dataclass(value):
            values = as_settings(vars(value))
            settings |= ({name: values} if values else {}) if name in _PREFIXED else values
        elif name not in _NOT_KEPT and value not in (None, (), ""):
            settings[name] = _plain(value)
    return settings


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _marks(folder: Path) -> dict:
    """What settings.json says, empty if it is not there or not ours."""
    with suppress(OSError, ValueError):
        marks = json.loads((folder / SETTINGS_FILE).read_text())
        if isinstance(marks, dict) and "mcpkg" in marks:
            return marks
    return {}


def _foreign(command: str, folder: Path) -> Iterator[Path]:
    """Files in the folder that the command would replace although mcpkg did not write them."""
    marks = _marks(folder)
    wrote = {name for name in WRITES if name in marks}
    if (folder / "run.json").is_file():  # trained from Python, or by version 0.1.0
        wrote.add("train")
    ours = {path for name in wrote for pattern in WRITES[name] for path in folder.glob(pattern)}
    if (folder / SETTINGS_FILE).exists() and not marks:
        yield folder / SETTINGS_FILE
    for pattern in WRITES[command]:
        yield from sorted(path for path in folder.glob(pattern) if path not in ours)
