"""Copies of the repository that a test may change or build."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
WEIGHTS = Path("mcpkg/backends/mini/weights")


def copy_repository(folder: Path, *parts: str, link_weights: bool = False) -> Path:
    """Copy the files that git tracks or would track, as they are now.

    Args:
        folder: receives the copy.
        parts: files and folders to copy; by default all.
        link_weights: link the built-in models' weights, 41 MB, instead of copying them.

    Returns:
        `folder`.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *parts]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for file in sorted(set(map(Path, listed))):
        if (ROOT / file).is_file() and not (link_weights and file.is_relative_to(WEIGHTS)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes((ROOT / file).read_bytes())
    if link_weights:
        (folder / WEIGHTS).symlink_to(ROOT / WEIGHTS, target_is_directory=True)
    return folder
