"""Picture files: check and decode one."""

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
"""Left, top, right and bottom in pixels, as in Pillow."""

FORMATS = ("PNG", "JPEG", "WEBP")  # whatever the suffix: some of Pillow's many other readers run programs

MIN_SIDE_PX = 16
MAX_SIDE_PX = 20_000
MAX_ASPECT = 4  # of the long side to the short: beyond, it is a strip and not a photo of a person
CENTERING = (0.5, 0.3)  # of the crop to a square: heads are usually in the upper half of tall photos


@dataclass(frozen=True)
class Picture:
    """An upright picture without the file's metadata about camera, place and time."""

    rgb: Image.Image
    """On a plain background where it was transparent, unless `open_picture` was called with background=None."""
    alpha: Image.Image | None
    """8 bits, 255 where opaque; None if the picture is opaque everywhere."""


def open_picture(path: str | Path, background: str | None = "white") -> Picture:
    """Decode one PNG, JPEG or WebP file and turn it upright (EXIF).

    Args:
        background: colour behind transparent pixels; None keeps the colours stored there.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is not such an image, is damaged, would be decoded to other pixels than an image viewer
            shows (16 bits, CMYK, animated), or has an unsuitable size (tiny, huge, a strip). Sizes are checked
            before decoding.
    """
    path = Path(path)
    with path.open("rb") as file:
        with _explain_damage(path):
            image = Image.open(file, formats=FORMATS)
        _check_header(path, image)
        with _explain_damage(path):
            image = ImageOps.exif_transpose(image)
            rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if background is not None:
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return Picture(rgba.convert("RGB"), alpha if alpha.getextrema()[0] < 255 else None)


def read_image(path: str | Path, size_px: int) -> Float[Tensor, "3 h w"]:
    """Read one image without searching for a face: its upper middle as a square, on white where transparent.

    Raises:
        OSError, ValueError: see `open_picture`.
    """
    square = ImageOps.fit(open_picture(path).rgb, (size_px, size_px), Image.Resampling.LANCZOS, centering=CENTERING)
    return to_tensor(square)


def _check_header(path: Path, image: Image.Image) -> None:
    """Raise ValueError unless size, mode and number of frames are supported; nothing is decoded."""
    width, height = image.size
    size = f"{path}: {width} x {height} pixels"
    if min(width, height) < MIN_SIDE_PX:
        raise ValueError(f"{size}; too small for a face. Give a picture of {MIN_SIDE_PX} pixels a side or more.")
    if max(width, height) > MAX_SIDE_PX:
        raise ValueError(f"{size}; at most {MAX_SIDE_PX} a side are supported. Save a smaller copy.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{size} is a strip. Crop it to the person.")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:  # a phone's JPEG may hold a second view
        raise ValueError(f"{path}: animated, {image.n_frames} pictures. Save the one you want as a separate file.")
    if image.mode == "CMYK":
        raise ValueError(f"{path}: CMYK, colours for printing. Save it as RGB.")
    depth = str(image.tile[0].args) if image.tile else ""  # Pillow cuts 16-bit RGB to 8 bits without a warning
    if image.mode.startswith(("I", "F")) or "16" in depth:
        raise ValueError(f"{path}: 16 bits per channel. Save it with 8.")


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn Pillow's errors within the block into a ValueError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. about damaged EXIF, which is not read here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(f"{path}: {limit}. Save a smaller copy.") from None
    except Exception as error:  # Pillow's readers raise many kinds of errors on damaged bytes
        reason = "not PNG, JPEG or WebP" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ValueError(f"{path}: cannot be read as an image ({reason}). Save it again or remove it.") from None
