"""Errors and notices of commands: one line each."""

import errno
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 2


class MissingPackage(ImportError):
    """An optional package is not installed, or does not load; one line that names what to install."""


class BadOption(Exception):
    """A value on the command line is out of its range. Not a ValueError, which the parser would show in a box."""


EXPECTED = (OSError, ValueError, FloatingPointError, MissingPackage, BadOption)
"""Bad input, trouble with files, diverged training. Any other error is a bug of ours and keeps its traceback."""


class Notice(UserWarning):
    """One line that the user should read although the command continues."""


def notify(text: str) -> None:
    """Give the user a notice, once for each text: a line in a command, a warning in a notebook or a program."""
    warnings.warn(text, Notice, stacklevel=3)


@contextmanager
def one_line_notices() -> Iterator[None]:
    """Within the block a notice is one line on standard error, so that standard output stays clean for programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", Notice)
        show_others = warnings.showwarning

        def show(message, category, *where, **options) -> None:
            if issubclass(category, Notice):
                print(f"notice: {_joined(message)}", file=sys.stderr)
            else:
                show_others(message, category, *where, **options)

        warnings.showwarning = show
        yield


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within the block, bad input ends the command with one line and exit code 2; a notice is one line too.

    Both go to standard error.

    Raises:
        SystemExit: on bad input, see `EXPECTED`.
    """
    with one_line_notices():
        try:
            yield
        except BrokenPipeError:  # nobody reads on: no error of the command
            raise
        except Exception as error:
            if (line := describe_error(error)) is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            raise SystemExit(EXIT_CODE) from None


def describe_error(error: Exception) -> str | None:
    """One line about what is wrong and what to do; None for a bug of ours."""
    if type(error).__name__ == "SafetensorError":  # by name, because safetensors may not be imported
        return f"{_weights_file(error)}: damaged, or not a safetensors file ({_joined(error)}). Copy or train it again."
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be imported
        return "the GPU's memory is full. Close other programs; in training give --checkpointing on, or --recipe colab."
    if not isinstance(error, EXPECTED):
        return None
    if isinstance(error, OSError) and error.strerror:  # the operating system's message
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{error.filename or 'disk'}: no space left. Free some and repeat the command."
        return f"{error.filename or 'file'}: {_joined(error.strerror).lower()}."
    return _joined(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; of an error without a message, the name of its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _weights_file(error: Exception) -> str:
    """The safetensors file that was being read; the error itself does not name it."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, str | Path) and str(value).endswith(".safetensors"):
                return str(value)
    return "weights"


def _joined(text: object) -> str:
    return " ".join(str(text).split()) or type(text).__name__
