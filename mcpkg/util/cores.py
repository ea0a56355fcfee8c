"""How many processor cores this process may use."""

import os


def usable_cores() -> int:
    """Return the cores that this process may run on, where the system says so, else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
