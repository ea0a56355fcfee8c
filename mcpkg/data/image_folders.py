"""List the pictures in a folder, before any is opened; loads no torch, so that a wrong folder is named at once."""

from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".dng")
"""Picture formats that are not supported; such files are reported instead of being ignored silently."""


def find_images(folder: str | Path, at_least: int = 2) -> tuple[Path, ...]:
    """List the images directly in a folder, sorted by name; hidden files and subfolders are skipped.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        NotADirectoryError: `folder` is a file.
        ValueError: fewer images than `at_least`, a link that leads nowhere, or a name that is not UTF-8.
    """
    folder = Path(folder)
    check_utf8(folder)
    if not folder.exists():
        samples = " python -m mcpkg.world.samples renders the samples." if "data_samples" in folder.parts else ""
        raise FileNotFoundError(f"{folder}: no such folder.{samples}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: a file. Give the folder that contains the images.")
    paths = _visible(folder, SUFFIXES)
    if not paths and at_least > 0:
        others = f" {_names(left)} cannot be read." if (left := find_other_pictures(folder)) else ""
        raise FileNotFoundError(f"{folder}: no image found.{others} Put PNG, JPEG or WebP files into it.")
    if len(paths) < at_least:
        raise ValueError(f"{folder}: {_names(paths)} is the only image. Add others, to have {at_least} or more.")
    return paths


def find_other_pictures(folder: str | Path) -> tuple[Path, ...]:
    """List pictures directly in a folder whose format is not supported."""
    return _visible(Path(folder), OTHER_SUFFIXES)


def check_utf8(path: Path) -> None:
    """Raise unless a path can be written to a report.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!a}: the name is not UTF-8. Rename it.") from None


def _visible(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    named = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    for path in named:
        check_utf8(path)
        if path.is_symlink() and not path.exists():  # also a link to itself
            raise ValueError(f"{path}: a link that leads nowhere. Remove it, or put the picture in its place.")
    return tuple(sorted(path for path in named if path.is_file()))


def _names(paths: tuple[Path, ...]) -> str:
    return ", ".join(path.name for path in paths)
