"""The folder of samples, which an installed package does not bring along: rendered where it is first needed."""

import shutil
from pathlib import Path

from mcpkg.util.errors import notify
from mcpkg.util.files import explain_full_disk, staged_path

SAMPLES = Path("data_samples")


def ensure_samples(folder: Path = SAMPLES) -> Path:
    """Render the repository's `data_samples/` to a folder, unless it is there.

    It appears whole or not at all; if two processes render it, the first one's stays.

    Args:
        folder: where the samples are, or should be.

    Returns:
        `folder`.

    Raises:
        OSError: it cannot be written.
    """
    if folder.exists():
        return folder
    from mcpkg.world.samples import make_samples

    notify(f"{folder.absolute()}: not there, so the samples are rendered: 3 MB of pictures that show no real person.")
    staged = staged_path(folder)
    with explain_full_disk(folder.parent):
        try:
            make_samples(staged)
            staged.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return folder
