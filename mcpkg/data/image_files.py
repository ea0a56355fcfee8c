"""Picture files: which there are in a folder, what is in one, and how one is written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from mcpkg.util.images import to_tensor

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, as Pillow has it."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".dng")
"""Of pictures that are not read, so that nobody wonders where they went."""
FORMATS = ("PNG", "JPEG", "WEBP")  # whatever the file is called: Pillow's other readers are many, and some run programs

MIN_SIDE_PX = 16
MAX_SIDE_PX = 20_000
MAX_ASPECT = 4  # of the long side to the short: beyond, it is a strip and not a photo of somebody
CENTERING = (0.5, 0.3)  # of the crop to a square: people keep their heads in the upper half of tall photos


@dataclass(frozen=True)
class Picture:
    """An upright picture; what the file said about camera, place and time is not in it."""

    rgb: Image.Image
    """On a plain background where it was transparent, unless asked for otherwise."""
    alpha: Image.Image | None
    """8 bits, 255 where opaque; None if it is opaque everywhere."""


def find_images(folder: str | Path, at_least: int = 2) -> tuple[Path, ...]:
    """The images directly in a folder, in the order of the names; hidden files and subfolders are passed over.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: fewer images than `at_least`.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: a file. Give the folder that holds the images.")
    paths = _visible(folder, SUFFIXES)
    if not paths and at_least > 0:
        others = f" {_names(left)} cannot be read." if (left := find_other_pictures(folder)) else ""
        raise FileNotFoundError(f"{folder}: no image found.{others} Put PNG, JPEG or WebP files into it.")
    if len(paths) < at_least:
        raise ValueError(f"{folder}: {_names(paths)} is the only image. Add others, to have {at_least} or more.")
    return paths


def find_other_pictures(folder: str | Path) -> tuple[Path, ...]:
    """Pictures directly in a folder whose format is not read."""
    return _visible(Path(folder), OTHER_SUFFIXES)


def open_picture(path: str | Path, background: str | None = "white") -> Picture:
    """Decode one PNG, JPEG or WebP file and turn it upright (EXIF).

    Args:
        background: what shows through where the picture is transparent; None keeps the colours stored there.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no such image, is damaged, or is of a kind that would not give the pixels that its owner
            sees (16 bits, CMYK, animated) or not show a face (tiny, huge, a strip). Sizes are judged before decoding.
    """
    path = Path(path)
    with path.open("rb") as file:
        with _damage_named(path):
            image = Image.open(file, formats=FORMATS)
        _check_header(path, image)
        with _damage_named(path):
            image = ImageOps.exif_transpose(image)
            rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if background is not None:
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return Picture(rgba.convert("RGB"), alpha if alpha.getextrema()[0] < 255 else None)


def read_image(path: str | Path, size_px: int) -> Float[Tensor, "3 h w"]:
    """One image without looking at what it shows: its upper middle as a square, on white where transparent.

    Raises:
        OSError, ValueError: see `open_picture`.
    """
    square = ImageOps.fit(open_picture(path).rgb, (size_px, size_px), Image.Resampling.LANCZOS, centering=CENTERING)
    return to_tensor(square)


def _check_header(path: Path, image: Image.Image) -> None:
    width, height = image.size
    size = f"{path}: {width} x {height} pixels"
    if min(width, height) < MIN_SIDE_PX:
        raise ValueError(f"{size}; no face fits into that. Give a picture of {MIN_SIDE_PX} pixels a side or more.")
    if max(width, height) > MAX_SIDE_PX:
        raise ValueError(f"{size}; at most {MAX_SIDE_PX} a side are read. Save a smaller copy.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{size} is a strip. Crop it to the person.")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:  # a phone's JPEG may hold a second view
        raise ValueError(f"{path}: animated, {image.n_frames} pictures. Save the one you want as a file of its own.")
    if image.mode == "CMYK":
        raise ValueError(f"{path}: CMYK, colours of a printing press. Save it as RGB.")
    depth = str(image.tile[0].args) if image.tile else ""  # Pillow cuts 16-bit RGB to 8 and keeps quiet about it
    if image.mode.startswith(("I", "F")) or "16" in depth:
        raise ValueError(f"{path}: 16 bits per channel. Save it with 8.")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like, which nothing here reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(f"{path}: {limit}. Save a smaller copy.") from None
    except Exception as error:  # Pillow's readers fail in many ways over damaged bytes
        reason = "not PNG, JPEG or WebP" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ValueError(f"{path}: cannot be read as an image ({reason}). Save it again or remove it.") from None


def _visible(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    return tuple(sorted(path for path in files if not path.name.startswith(".")))


def _names(paths: tuple[Path, ...]) -> str:
    return ", ".join(path.name for path in paths)
