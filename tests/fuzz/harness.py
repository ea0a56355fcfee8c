"""Give a reader malformed inputs one by one, and judge how it ends each time."""

import contextlib
import io
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mcpkg.util.errors import one_line_errors

LIMIT_S = 20
"""For one input; each takes a fraction of a second on an idle machine."""
COUNTS: dict[str, Counter] = {}
"""Group -> how many of its inputs were refused, and how many accepted; printed after the tests."""


class Hang(BaseException):
    """An input was not judged in time."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def ring(*_) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ending(action: Callable[[], object], boxed: bool = False) -> str:
    """How a command that does this would end: "accepted", "refused", or what is wrong with how it ends.

    Args:
        boxed: the parser of the command line may refuse in a box of several lines.
    """
    said = io.StringIO()
    try:
        with _limited(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with one_line_errors():
                    action()
    except SystemExit as stop:
        if stop.code in (0, None):
            return "accepted"
        lines = [line for line in said.getvalue().splitlines() if not line.startswith("notice: ")]
        if stop.code != 2 or not lines or (len(lines) > 1 and not boxed):
            return f"exit code {stop.code} with {len(lines)} lines: {' / '.join(lines)[:200]}"
        return "refused"
    except Hang:
        return f"no answer after {LIMIT_S} s"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    return "accepted"


def judge(
    group: str,
    inputs: Iterable[tuple[str, Callable[[], object]]],
    accepted: Callable[[str], bool] = lambda name: False,
    unchanged: Callable[[], object] = lambda: None,
    boxed: bool = False,
) -> list[str]:
    """Try every input: one line for each that does not end as it should.

    Args:
        inputs: name -> what reads it.
        accepted: whether an input of that name is documented to be accepted; every other one must be refused.
        unchanged: its value must be the same after each input, as before it.
        boxed: see `ending`.
    """
    counts, problems = COUNTS.setdefault(group, Counter()), []
    for name, action in inputs:
        before = unchanged()
        end = ending(action, boxed)
        wanted = "accepted" if accepted(name) else "refused"
        if end != wanted:
            problems.append(f"{group}: {name}: {end}, should be {wanted}")
        elif unchanged() != before:
            problems.append(f"{group}: {name}: {end}, but left something half done")
        counts[end if end in ("accepted", "refused") else "wrong"] += 1
    return problems
