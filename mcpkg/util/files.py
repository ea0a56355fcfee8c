"""Files that appear whole or not at all, and clear one-line errors where that fails."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAGED = ".mcpkg-part"
"""How the names of files and folders end that are still being written; those of killed processes can be deleted."""


def staged_path(path: Path) -> Path:
    """A new hidden name beside `path`, to write to before it becomes `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{STAGED}")


@contextmanager
def replace_whole(path: str | Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a path to write to, in a hidden folder beside `path`; at the end it becomes `path`, after an error it is
    deleted.

    A folder, because safetensors writes to a temporary file of its own beside the one it is given: if the process is
    killed meanwhile, it lies where `sweep` finds it.

    Args:
        mode: permissions of the file, less those that the umask takes away.

    Raises:
        OSError: no space left; the message names the folder.
    """
    path = Path(path)
    staged = staged_path(path)
    partial = staged / path.name
    with explain_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.mkdir()
            partial.touch(mode)
            permissions = partial.stat().st_mode
            yield partial
            partial.chmod(permissions)  # safetensors puts a file of its own there, which only its owner may read
            with partial.open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut could leave an empty file under the new name
            os.replace(partial, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


_FULL: dict[int | None, str] = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "no space left in your quota",
    errno.EFBIG: "a file would be larger than is allowed here",
}


@contextmanager
def explain_full_disk(folder: str | Path) -> Iterator[None]:
    """Turn an error about a full disk within the block into one line that names the folder.

    Raises:
        OSError: no space left.
    """
    try:
        yield
    except Exception as error:
        # libraries wrap the system's error in their own and keep only its text
        number = re.search(r"os error (\d+)", str(error))
        reason = _FULL.get(int(number[1]) if number else getattr(error, "errno", None))
        if reason is None:
            raise
        named = next(place for place in (Path(folder), *Path(folder).parents) if STAGED not in str(place))
        raise OSError(f"{named}: {reason}. Free some and repeat the command.") from None


def check_file_name(name: str) -> None:
    """Raise unless a name is safe as file name and as word in a prompt, for every program.

    Raises:
        ValueError: it has other characters than letters, digits, - and _, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(
            f"name: {name!r} does not serve as file name and placeholder. Use letters, digits, - and _, 100 at most."
        )


def write_json(values: dict, path: str | Path) -> None:
    """Write indented JSON.

    Raises:
        ValueError: a value that JSON does not have, such as NaN.
    """
    with replace_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def finite(values: Any) -> Any:
    """The same values, ready for JSON: None for NaN and infinity, also within dicts, lists and tuples."""
    if isinstance(values, dict):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def read_json(path: str | Path) -> dict:
    """Read what `write_json` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:  # broken text as well as broken JSON
        raise ValueError(f"{path}: damaged ({error}). Copy it again, or remove its folder.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: damaged (holds no settings). Copy it again, or remove its folder.")
    return values


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
