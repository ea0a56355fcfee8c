"""Folders that several files go to together, and that one process at a time writes to."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcpkg.util.errors import notify
from mcpkg.util.files import STAGED, explain_full_disk, staged_path

_LOCKED: set[Path] = set()
"""Folders that this process has to itself."""


@contextmanager
def replace_together(
    folder: str | Path, first: str = "", last: str = "", instead_of: Iterable[str] = ()
) -> Iterator[Path]:
    """Yield a hidden folder to write to; at the end its files move to `folder`, after an error none of them does.

    So a full disk leaves the folder as it was. Only renaming is left to do at the end, file by file.

    Args:
        first: name of the file that moves before the others.
        last: name of the file that makes the folder valid: an old one is deleted first, the new one comes last.
        instead_of: names of old files that are deleted unless they were written anew.

    Raises:
        OSError: no space left; the message names the folder.
    """
    folder = Path(folder)
    with explain_full_disk(folder), _created(folder):
        staged = staged_path(folder / folder.name)
        staged.mkdir()
        try:
            yield staged
            names = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
            for old in (last, *instead_of):
                if old and (old == last or Path(old) not in names):
                    (folder / old).unlink(missing_ok=True)
            for name in sorted(names, key=lambda name: (str(name) != first, str(name) == last)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).replace(folder / name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def one_process(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a folder that is written to, and delete what killed ones had not finished there.

    The folder is created; if nothing is in it at the end, it is removed again. The lock is the operating system's, on
    the folder itself: it leaves no file behind and ends with the process.

    Raises:
        OSError: another process is writing there.
    """
    folder = Path(folder)
    place = folder.resolve()
    if place in _LOCKED or not is_first_process():
        yield
        return
    missing = _missing(folder)
    descriptor = _lock(folder)
    _LOCKED.add(place)
    try:
        sweep(folder)
        yield
    finally:
        # while locked: removing a folder that another process has locked would let a third one make and lock it anew
        _remove_empty(missing)
        _LOCKED.discard(place)
        os.close(descriptor)


def is_first_process() -> bool:
    """Whether this process writes: of several that accelerate or torchrun started for one run, the first does."""
    return os.environ.get("RANK", "0") == "0"


def check_unused(folder: str | Path) -> None:
    """Raise if another process is writing to the folder; it need not exist.

    Raises:
        OSError: see `one_process`.
    """
    if is_first_process() and Path(folder).is_dir() and Path(folder).resolve() not in _LOCKED:
        os.close(_lock(Path(folder)))


def sweep(folder: Path, *more: str) -> None:
    """Delete what processes that were killed had not finished, in the folder and in those directly in it.

    Args:
        more: patterns of other names to delete.
    """
    for pattern in (f".*{STAGED}", f"*/.*{STAGED}", *more):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _lock(folder: Path) -> int:
    """The descriptor of the folder, which is created if it is missing, locked until it is closed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process removed the folder meanwhile, because it was empty
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                _lock_opened(descriptor, folder)
                if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                    return descriptor
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _lock_opened(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(
            f"{folder}: another process is writing there. Wait until it has finished, or give another folder."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL):
            raise
        notify(f"{folder}: its disk has no locks. Take care that no other command writes there.")


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Within the block the folder exists; folders that were made for it go again if they are still empty at the end."""
    missing = _missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        _remove_empty(missing)


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist, the deepest first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
