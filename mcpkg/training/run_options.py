"""How a training is run; nothing here changes what it learns."""

from dataclasses import dataclass

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
    """Steps between two previews; 0 for none."""
    tensorboard: bool = False
    """Also log the loss terms for TensorBoard."""
    overwrite: bool = False
    """Begin anew where another run is, and write where other files are."""

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"save_every: {self.save_every} is below 1.")
        if self.preview_every < 0:
            raise ValueError(f"preview_every: {self.preview_every} is below 0.")
