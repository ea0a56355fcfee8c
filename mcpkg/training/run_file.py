"""`run.json`: what a run is trained on, and every session of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mcpkg.util.schema import Schema, read_sealed, read_text_of

RUN_FILE, FORMAT = "run.json", "mcpkg run 3"
ADVICE = "Copy it again, or give a new or empty folder."


class Session(Schema):
    """One start of the training, or one that went on."""

    from_step: Annotated[int, Field(ge=0)]
    device: str
    threads: int
    machine: str
    python: str
    versions: dict[str, str]


class Run(Schema):
    """`run.json`."""

    format: str
    settings: dict
    sessions: list[Session]
    sha256: str


def read_run(file: Path) -> Run:
    """Read `run.json`.

    Raises:
        ValueError: it is damaged, or of an earlier version.
    """
    text = read_text_of(file, ADVICE)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # broken text as well as broken JSON
        raise ValueError(f"{file}: damaged ({error}). {ADVICE}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{file}: not of a run that this version of mcpkg can go on with. Give a new or empty folder.")
    return read_sealed(file, Run, ADVICE)


def differences(there: object, here: object, path: str = "") -> Iterator[str]:
    """E.g. "seed 0, not 1", for every leaf in which two settings differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there | here:
            yield from differences(there.get(key), here.get(key), f"{path} {key}".strip())
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (a, b) in enumerate(zip(there, here)):
            yield from differences(a, b, f"{path} {number + 1}")
    elif there != here or isinstance(there, bool) != isinstance(here, bool):  # True equals 1
        yield f"{path} {_shown(there)}, not {_shown(here)}"


def _shown(value: object) -> str:
    return "missing" if value is None else json.dumps(value)
