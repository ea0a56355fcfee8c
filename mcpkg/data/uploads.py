"""Photos that a person entrusts to us: saved without what they tell of place and time, and deleted completely."""

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mcpkg.data.image_files import FORMATS
from mcpkg.util.files import file_sha256, replace_whole, write_json
from mcpkg.util.folders import sweep

MANIFEST = ".mcpkg-uploads.json"
"""File name -> SHA-256 of every photo that was saved; a file that is not listed, or has changed, is not ours."""
OWNER_ONLY = 0o600


def save_uploads(photos: Sequence[tuple[str, bytes]], folder: str | Path) -> list[Path]:
    """Save photos as photo_01.jpg and so on, upright, without metadata and readable by their owner only.

    Files of these names that are not ours are left alone; the next free number is taken.

    Args:
        photos: suffix such as ".jpg", and content. What is no picture becomes an empty file, which readers will name.

    Raises:
        OSError: the files cannot be written.
    """
    folder, listed, paths, number = Path(folder), _manifest(Path(folder)), [], 0
    for suffix, content in photos:
        clean, number = without_metadata(content), number + 1
        while any(folder.glob(f"photo_{number:02}.*")):
            number += 1
        path = folder / f"photo_{number:02}{suffix}"
        listed[path.name] = hashlib.sha256(clean).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(listed, folder / MANIFEST)  # first, so that no photo is forgotten if we are killed here
        with replace_whole(path, OWNER_ONLY) as partial:
            partial.write_bytes(clean)
        paths.append(path)
    return paths


def delete_uploads(folder: str | Path) -> None:
    """Delete all photos that `save_uploads` saved there, and its list; a file that has changed since is kept."""
    folder = Path(folder)
    for name, digest in _manifest(folder).items():
        path = folder / Path(name).name
        if path.is_file() and not path.is_symlink() and file_sha256(path) == digest:
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    sweep(folder)


def without_metadata(content: bytes) -> bytes:
    """The same picture, upright, in the same format, without EXIF, GPS, comments or text; empty if it is no picture."""
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        kind, image = opened.format or "", ImageOps.exif_transpose(opened)
        image.load()
    except Exception:  # Pillow's readers raise many kinds of errors on damaged bytes
        return b""
    kept: dict[str | tuple[int, int], Any] = {key: image.info[key] for key in ("transparency",) if key in image.info}
    clean = image.copy()
    clean.info = kept
    getattr(clean, "text", {}).clear()
    quality: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    file = io.BytesIO()
    clean.save(file, format=kind, **quality.get(kind, {}))
    return file.getvalue()


def _manifest(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        listed = json.loads((folder / MANIFEST).read_text())
        if isinstance(listed, dict):
            return {name: digest for name, digest in listed.items() if isinstance(digest, str)}
    return {}
