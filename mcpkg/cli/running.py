"""Runs a command: exit codes, ^C and SIGTERM, a reader that stops reading."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mcpkg import __version__
from mcpkg.cli.parsing import parse
from mcpkg.util.errors import one_line_errors

NEW_OBJECTS = 10_000
"""After so many, Python looks for cyclic garbage; by default after 700. Importing torch and diffusers makes thousands
of modules that stay, and looking through them again and again took a sixth of the time to the first step."""
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """The process was asked to end, as by ^C."""


def run_command(commands: Mapping[str, Callable], args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        commands: by name.
        args: as typed after `mcpkg`; by default those of the process.

    Raises:
        SystemExit: with the command's exit code, unless it is 0.
    """
    args = sys.argv[1:] if args is None else args
    if list(args) == ["--version"]:
        print(f"mcpkg {__version__}")
        return
    try:
        with one_line_errors(), _ends_like_ctrl_c(), _garbage_later():
            _, call = parse(commands, args)
            code = call()
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as in `mcpkg doctor | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        code = 0
    except KeyboardInterrupt as stop:
        print("stopped. When its command is repeated, a training continues from its last checkpoint.", file=sys.stderr)
        code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    if code:
        raise SystemExit(code)


@contextmanager
def _garbage_later() -> Iterator[None]:
    """Within the block, Python looks for cyclic garbage after `NEW_OBJECTS`."""
    before = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _ends_like_ctrl_c() -> Iterator[None]:
    """Within the block, SIGTERM raises `Terminated`, so that what is half written is cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
