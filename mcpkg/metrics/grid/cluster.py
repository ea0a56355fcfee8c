"""Workers on a cluster: an array of jobs, by submitit."""

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mcpkg.metrics.grid.cells import Grid
from mcpkg.metrics.grid.worker import try_cells
from mcpkg.util.errors import MissingPackage, first_line

JOBS_FOLDER = "jobs"
"""In the grid's folder: what submitit writes, and the jobs' output."""
CLUSTERS = ("slurm", "local", "debug")
"""Executors of submitit; "local" starts processes on this machine, "debug" runs all in this one."""
TIME_MIN = 60
"""Of one job, unless given. A job whose time is over goes back to the queue."""
REQUEUES = 1000
"""How often a job may go back to the queue because its time was over."""


class _Job:
    """One job of the array, called by submitit."""

    def __call__(self, grid: Grid) -> Exception | None:
        return try_cells(grid)

    def checkpoint(self, grid: Grid) -> Any:
        """What goes back to the queue when Slurm preempts the job or its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, grid)  # all that it has done is in the grid's folder


class WorkerJob:
    """One worker as a job.

    Args:
        job: of submitit.
        stays: whether it goes on when the command that submitted it ends.
    """

    def __init__(self, job: Any, stays: bool):
        self.job, self.stays = job, stays

    def done(self) -> bool:
        return self.job.done()

    def failure(self) -> Exception | None:
        """Why it could not begin or go on, once it is done; None if it could."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return self.job.result()
        except (FailedJobError, UncompletedJobError) as error:
            return OSError(f"job {self.job.job_id}: {first_line(error)}. Its output is in {self.job.paths.stderr}.")

    def stop(self) -> None:
        """End it in the middle of its work, but let one of Slurm go on: `scancel` ends it."""
        if not self.stays:
            self.job.cancel()

    def release(self) -> None:
        """Take it out of the queue, now that nothing is left to do."""
        if not self.done():
            self.job.cancel()


def check_cluster(given: Sequence[str]) -> dict[str, str]:
    """The options of a job array by name, from words such as partition=gpu.

    Raises:
        ValueError: one is written otherwise, or names a cluster that is not known.
        MissingPackage: submitit is not installed.
        OSError: Slurm's commands are not on this machine.
    """
    for word in given:
        name, _, value = word.partition("=")
        if not name or not value:
            raise ValueError(f"--slurm: {word!r} is not name=value, such as partition=gpu.")
    options = dict(word.split("=", 1) for word in given)
    cluster = options.get("cluster", CLUSTERS[0])
    if cluster not in CLUSTERS:
        raise ValueError(f"--slurm: cluster={cluster} unknown. Choose from {', '.join(CLUSTERS)}.")
    if not options.get("time", "1").isdecimal():
        raise ValueError(f"--slurm: time={options['time']} is no whole number of minutes, such as time=60.")
    if find_spec("submitit") is None:
        raise MissingPackage("--slurm: submitit is not installed. Run pip install submitit.")
    if cluster == "slurm" and (shutil.which("sbatch") is None or shutil.which("srun") is None):
        raise FileNotFoundError("--slurm: no sbatch here. Give the command on a machine that submits to Slurm.")
    return options


def submit_jobs(grid: Grid, workers: int, options: Mapping[str, str]) -> list[WorkerJob]:
    """Submit one array of as many jobs as workers; those of Slurm go on when this process ends.

    Args:
        options: from `check_cluster`: "cluster", "time" in minutes, and others of sbatch by its names for them.

    Raises:
        ValueError: Slurm refuses the options.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    logging.getLogger("submitit").setLevel(logging.ERROR)  # else it warns again and again where Slurm keeps no accounts
    chosen = dict(options)
    cluster, minutes = chosen.pop("cluster", CLUSTERS[0]), int(chosen.pop("time", TIME_MIN))
    executor = submitit.AutoExecutor(grid.out / JOBS_FOLDER, cluster=cluster, slurm_max_num_timeout=REQUEUES)
    executor.update_parameters(name="mcpkg-grid", timeout_min=minutes, slurm_additional_parameters=chosen)
    try:
        jobs = executor.map_array(_Job(), [grid] * workers)
    except (FailedJobError, RuntimeError) as error:
        raise ValueError(f"--slurm: refused ({first_line(error)}).") from None
    stays = cluster == "slurm"
    if stays:
        array = jobs[0].job_id.partition("_")[0]
        print(f"submitted: job {array}, which goes on if this command is stopped. End it: scancel {array}. "
              f"Its output: {grid.out / JOBS_FOLDER}", file=sys.stderr)  # fmt: skip
    return [WorkerJob(job, stays) for job in jobs]
