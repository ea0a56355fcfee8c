"""`run.json`: what a run is trained on, and every session of it."""

import json
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
