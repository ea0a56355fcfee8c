"""How many threads a training uses, unless the user has chosen."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mcpkg.method.interfaces import Backend
from mcpkg.util.cores import usable_cores

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def training_threads(backend: Backend) -> Iterator[None]:
    """Within the block, torch uses the backend's `threads`; on a GPU, and where the user has chosen, as many as before.

    The user chooses by `OMP_NUM_THREADS` or `MKL_NUM_THREADS`, or by `torch.set_num_threads` with another number than
    that of the cores.

    Note:
        A small model gains little by a second thread, and loses much beside another busy process: whichever thread is
        waiting spins on the core that the other needs.
    """
    before = torch.get_num_threads()
    if backend.threads is None or backend.device.type != "cpu" or _is_chosen(before):
        yield
        return
    torch.set_num_threads(backend.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_chosen(threads: int) -> bool:
    """Whether torch would not take as many by itself: one for each core, or for each two that share one."""
    cores = usable_cores()
    return any(name in os.environ for name in VARIABLES) or threads not in (cores, cores // 2)
