"""Workers on this machine: processes of one thread each, and of one GPU each where there are several."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from mcpkg.metrics.grid.cells import Grid
from mcpkg.metrics.grid.worker import try_cells

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Read when torch is imported. Threads that wait for one another while busy would eat the other workers' cores."""
PATIENCE_S = 10.0
"""For a worker that was asked to end, and clears away what is half written."""


class WorkerProcess:
    """One worker in a process of its own, which ends with this one, however this one ends."""

    def __init__(self, grid: Grid, gpu: str | None = None):
        spawn = get_context("spawn")  # after a fork, neither torch's threads nor CUDA work
        self._answer, theirs = spawn.Pipe(duplex=False)
        self._process: SpawnProcess = spawn.Process(target=_serve, args=(theirs, grid))
        with _environment(ONE_THREAD | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})):
            self._process.start()
        theirs.close()

    def done(self) -> bool:
        return not self._process.is_alive()

    def failure(self) -> Exception | None:
        """Why it could not begin, once it is done; None if it could."""
        try:
            return self._answer.recv()
        except EOFError:  # it ended without an answer
            code = self._process.exitcode
            return ChildProcessError(f"a worker was ended from outside or by a bug (exit code {code}). Repeat the "
                                     "command to go on; with fewer --workers if memory is short.")  # fmt: skip

    def stop(self) -> None:
        """End it in the middle of its work."""
        self._process.terminate()
        self.release()

    def release(self) -> None:
        """Wait until it has ended, now that nothing is left to do; after `PATIENCE_S` it is killed."""
        self._process.join(PATIENCE_S)
        self._process.kill()
        self._process.join()


def start_processes(grid: Grid, workers: int, gpus: Sequence[str] = ()) -> list[WorkerProcess]:
    """Start workers.

    Args:
        gpus: as CUDA names them; each worker sees one, in turn. Empty to let all see what this process sees.
    """
    return [WorkerProcess(grid, gpus[number % len(gpus)] if gpus else None) for number in range(workers)]


def visible_gpus() -> list[str]:
    """The GPUs that CUDA shows to this process, if there are several."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [] if count < 2 else named.split(",")[:count] if named else [str(number) for number in range(count)]


def _serve(answer: Connection, grid: Grid) -> None:
    """Run in the worker's process: its failure, or None, is the answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches all processes of a terminal; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer.send(try_cells(grid))


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Within the block these variables are set, for processes that start there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
