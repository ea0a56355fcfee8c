"""Logs a training with a tracker that was asked for, through accelerate's classes for them.

Of a training, a tracker gets the method's settings, losses, learning rates, previews and their likeness; never photos
and never names of files.
"""

import math
import secrets
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mcpkg.training.progress import StepReport
from mcpkg.training.run_options import check_tracker
from mcpkg.util.files import replace_whole
from mcpkg.util.images import to_8_bit

PROJECT = "mcpkg"
TRACKER_FILE = "tracker.txt"
"""In the folder of a run: its id for trackers, so that a training that goes on is the same run there."""


class RunLog:
    """Sends steps and previews to a tracker; without one it does nothing. A context: at its end the tracker is closed.

    Args:
        name: one of `run_options.PACKAGES`, or None.
        folder: of the run.
    """

    def __init__(self, name: str | None, folder: Path):
        check_tracker(name)
        self.name, self.folder = name, folder
        self.tracker: Any = None  # one of accelerate's GeneralTrackers; some take images

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.tracker is not None:
            self.tracker.finish()

    def start(self, done: int, settings: dict) -> None:
        """Begin the run, or go on with it.

        Args:
            done: steps that are kept, of all phases. A killed run has logged later ones, which are now done again.
            settings: of the run, for those trackers that show them.
        """
        if self.name is None:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        build = LOGGER_TYPE_TO_CLASS[self.name]
        if self.name == "tensorboard":
            self.tracker = build("tensorboard", logging_dir=self.folder, purge_step=done + 1)
        else:
            run, name = self._run_id(), self.folder.resolve().name
            of_wandb = {"id": run, "name": name, "dir": str(self.folder), "save_code": False}
            options = of_wandb if self.name == "wandb" else {"name": f"{name}-{run}"}
            self.tracker = build(PROJECT, resume="allow", config=settings, **options)
        self.tracker.start()

    def _run_id(self) -> str:
        file = self.folder / TRACKER_FILE
        if not file.is_file():
            with replace_whole(file) as partial:
                partial.write_text(secrets.token_hex(4))
        return file.read_text()

    def step(self, report: StepReport, done: int) -> None:
        """Log a step's losses and learning rates."""
        if self.tracker is None:
            return
        rates = {f"learning_rate/{kind}": rate for kind, rate in report.learning_rates.items()}
        terms = {f"term/{name}": value for name, value in report.terms.items()}
        self.tracker.log({"loss": report.loss} | terms | rates, step=done)

    def preview(self, image: Float[Tensor, "3 h w"], likeness: Float[Tensor, " n"], done: int) -> None:
        """Log a preview, where the tracker takes images, and the mean likeness of its portraits that show a face."""
        if self.tracker is None:
            return
        if math.isfinite(mean := likeness.nanmean().item()):
            self.tracker.log({"preview/likeness": mean}, step=done)
        if hasattr(self.tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if self.name == "tensorboard" else {}
            self.tracker.log_images({"preview": to_8_bit(image[None])}, step=done, **layout)
