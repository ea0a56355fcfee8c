"""How a training is run; nothing here changes what it learns, only which of its checkpoints is kept."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

KeptBy = Literal["identity_scaled", "identity", "style_scaled", "style"]
"""Scores, of `mcpkg.metrics.scores.Scores`, by which the best checkpoint can be kept; higher is better."""
TrackerName = Literal["tensorboard", "wandb", "trackio"]
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""Tracker -> packages, of which it needs one."""
SETTINGS_FILE = "settings.json"
"""What a command writes about itself into the folder that it writes to."""
OVERWRITE_HELP = (
    "Also write in or around a folder of pictures, over files that are not from mcpkg, and over other settings."
)


@dataclass(frozen=True)
class RunOptions:
    """Options of a training in a folder."""

    save_every: int = 50
    """Steps between two checkpoints."""
    preview_every: int = 0
    """Steps between two previews, portraits with their likeness to the source below them; 0 for none."""
    keep_best: KeptBy | None = None
    """Keep the checkpoint of the last phase that has the highest score, instead of the last one; each is scored with
    the same 4 portraits. The best of many by a score is judged too well by that same score; look at the others too."""
    keep_best_every: int = 0
    """If the best checkpoint is kept: steps between two scores; 0 for as many as between two checkpoints."""
    log_with: TrackerName | None = None
    """Also log losses, learning rates and previews with this tracker. wandb sends them to its server, unless
    WANDB_MODE=offline is set; the others keep them on this machine."""
    overwrite: bool = False
    """Begin anew where another run is, and write where other files are."""

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"save_every: {self.save_every} is below 1.")
        if self.preview_every < 0:
            raise ValueError(f"preview_every: {self.preview_every} is below 0.")
        if self.keep_best_every < 0:
            raise ValueError(f"keep_best_every: {self.keep_best_every} is below 0.")
        if self.keep_best_every and self.keep_best is None:
            raise ValueError("keep_best_every: no best checkpoint is kept. Name its score too, or leave this out.")

    @property
    def kept(self) -> dict[str, str | int]:
        """Which checkpoint is kept, as `run.json` has it; empty for the last one."""
        every = self.keep_best_every or self.save_every
        return {} if self.keep_best is None else {"keep_best": self.keep_best, "keep_best_every": every}


def check_tracker(name: str | None) -> None:
    """Raise unless the tracker's package is installed; nothing is imported. None is no tracker.

    Raises:
        ValueError: it is not.
    """
    if name is not None and not any(map(find_spec, PACKAGES[name])):
        raise ValueError(f"log_with: {name} is not installed. Run pip install 'mcpkg[{name}]', or train without it.")
