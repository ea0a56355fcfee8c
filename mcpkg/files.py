"""Writing files that a reader finds whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_whole(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; what is there at the end becomes `path`, after an error it is gone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(values: dict, path: str | Path) -> None:
    """Indented JSON; what JSON cannot say, such as NaN, is an error."""
    with replace_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
