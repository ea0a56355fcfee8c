"""Progress of long jobs on standard error: a bar in a terminal, a line for every tenth in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

QUIET_S = 2.0
"""Jobs that are done sooner write no line into a log."""


class Progress:
    """Counts what is done of a job, and tells it line by line.

    Args:
        total: of the whole job.
        done: before, in an earlier session.
        unit: what is counted, in the plural.
    """

    def __init__(self, total: int, label: str, unit: str, done: int = 0):
        self.total, self.label, self.unit, self.done, self.note = total, label, unit, done, ""
        self._before, self._started = done, time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count n more.

        Args:
            note: what to add to the line.
        """
        tenth = 10 * self.done // self.total
        self.done, self.note = self.done + n, note
        if 10 * self.done // self.total > tenth and time.monotonic() - self._started > QUIET_S:
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far the job is, and for how long it will take at the pace so far."""
        spent = time.monotonic() - self._started
        left = spent / max(1, self.done - self._before) * (self.total - self.done)
        times = f"{tqdm.format_interval(spent)} spent, about {tqdm.format_interval(left)} left"
        return f"{self.label}: {self.done} of {self.total} {self.unit}, {times}{self.note and f' ({self.note})'}"


class _Bar(Progress):
    """The same as a bar in a terminal."""

    def __init__(self, total: int, label: str, unit: str, done: int = 0):
        super().__init__(total, label, unit, done)
        self.bar = tqdm(total=total, initial=done, desc=label, unit=f" {unit}")

    def advance(self, n: int = 1, note: str = "") -> None:
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(n)


class _Nothing(Progress):
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


@contextmanager
def show_progress(total: int, label: str, unit: str, done: int = 0, show: bool = True) -> Iterator[Progress]:
    """Show the progress of a job within the block; see `Progress`.

    Args:
        show: False for no output.
    """
    kind = _Nothing if not show else _Bar if sys.stderr.isatty() else Progress
    progress = kind(total, label, unit, done)
    try:
        yield progress
    finally:
        if isinstance(progress, _Bar):
            progress.bar.close()
