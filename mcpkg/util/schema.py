"""JSON with a schema: names, types and ranges of all fields are checked, and a digest shows any later change."""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_BYTES = 2**24
"""Of a JSON file; ours have a few thousand."""
SEAL = "sha256"
"""Field of a sealed file: the digest of all its other fields."""


class Schema(BaseModel):
    """Fields of a JSON object: all are there, none besides, each of exactly its type; no NaN and no infinity.

    Dataclasses among the fields are held to the same, and their own checks run.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


S = TypeVar("S", bound=Schema)


def check_json(text: str | bytes, schema: type[S], name: str | Path, advice: str) -> S:
    """Parse JSON and check it.

    Args:
        name: what the text is from, for the error message.
        advice: what to do if it is damaged, a sentence.

    Raises:
        ValueError: names the first field that is wrong.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    raise ValueError(f"{name}: {f'{field}: ' if field else ''}{reason}. {advice}")


def sealed(values: dict) -> dict:
    """The values with a digest of them, which `read_sealed` checks.

    Raises:
        ValueError: a value that JSON does not have, such as NaN.
    """
    return values | {SEAL: _digest(values)}


def read_sealed(path: str | Path, schema: type[S], advice: str) -> S:
    """Read a file of `sealed` values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field is wrong, or the digest is not that of the other fields.
    """
    text = read_text_of(path, advice)
    checked = check_json(text, schema, path, advice)
    values = json.loads(text)
    if values.pop(SEAL) != _digest(values):
        raise ValueError(f"{path}: its checksum differs: it was damaged, or changed by hand. {advice}")
    return checked


def read_text_of(path: str | Path, advice: str) -> bytes:
    """Read a file that should hold JSON.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is far too large.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size / 2**20:.0f} MiB, where a few KiB are usual. {advice}")
    return path.read_bytes()


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()
