"""Load a folder of portraits: upright square images, and the face in each."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mcpkg.backends.base import Backend, Faces
from mcpkg.files import replace_whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CENTERING = (0.5, 0.3)  # of the crop to a square: people keep their heads in the upper half of tall photos


@dataclass(frozen=True)
class Portraits:
    """Images that show one concept: a person (source) or a look (reference)."""

    paths: tuple[Path, ...]
    images: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    faces: Faces

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> "Portraits":
        return type(self)(self.paths[index], self.images[index], self.faces[index])


def load_portraits(folder: str | Path, backend: Backend, mask_files: bool = True) -> Portraits:
    """Read every image directly in a folder, in the order of the names, and find its face.

    Args:
        folder: holds PNG, JPEG or WebP files; subfolders are not read.
        backend: its `image_size_px` is the size that comes back, its parser finds the faces.
        mask_files: take the face mask from `masks/<same stem>.png` where there is one
            (white on the face), rather than the parser's.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a file cannot be read, or does not show exactly one face; the message names it.
    """
    paths = find_images(folder)
    images = torch.stack([read_image(path, backend.image_size_px) for path in paths]).to(backend.device)
    faces = backend.face_parser.parse(images)
    for path, count in zip(paths, faces.count.tolist(), strict=True):
        if count == 0:
            raise ValueError(f"{path}: no face found. Crop closer to the face or remove the file.")
        if count > 1:
            raise ValueError(f"{path}: {count} faces found. Crop to one of them or remove the file.")
    if mask_files:
        faces = replace(faces, face_mask=_masks_from_files(paths, faces.face_mask))
    return Portraits(paths, images, faces)


def find_images(folder: str | Path) -> tuple[Path, ...]:
    """The images directly in a folder, in the order of the names.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder.")
    paths = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES))
    if not paths:
        raise FileNotFoundError(f"{folder}: no image found. Put PNG, JPEG or WebP files into it.")
    return paths


def read_image(path: str | Path, size_px: int) -> Float[Tensor, "3 h w"]:
    """Read one image, turned upright (EXIF), on white where transparent, cropped to a square.

    Raises:
        ValueError: the file is not a readable image.
    """
    image = _open(path)
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    return _to_tensor(image, size_px)


def save_image(image: Float[Tensor, "3 h w"], path: str | Path) -> None:
    """Write one image in [0, 1] as PNG; the file appears whole or not at all."""
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with replace_whole(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")


def _open(path: str | Path) -> Image.Image:
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip, not scale, these
                raise ValueError(f"{path}: {image.mode} pixels are not supported. Save it with 8 bits per channel.")
            return ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}). Save it again or remove it.") from None


def _to_tensor(image: Image.Image, size_px: int) -> Float[Tensor, "c h w"]:
    square = ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS, centering=CENTERING)
    pixels = np.atleast_3d(np.asarray(square, dtype=np.float32) / 255)  # h w c
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _masks_from_files(paths: tuple[Path, ...], parsed: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    masks = parsed.clone()
    for row, path in enumerate(paths):
        file = path.parent / "masks" / f"{path.stem}.png"
        if file.exists():
            masks[row] = _to_tensor(_open(file).convert("L"), parsed.shape[-1]).to(masks)
            if masks[row].amax() == 0:
                raise ValueError(f"{file}: the mask is empty. Paint the face white or remove the file.")
    return masks
