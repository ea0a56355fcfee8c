"""How commands speak of bad input."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input, files and diverged training end the command with one line and exit code 2, without a traceback."""
    try:
        yield
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
