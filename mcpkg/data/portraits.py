"""Load a folder of portraits: upright square images, and the face in each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mcpkg.data.face_crop import Framed, frame_face
from mcpkg.data.image_files import Picture, find_images, find_other_pictures, open_picture, read_image
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.util.errors import describe_error, notify
from mcpkg.util.images import save_image, to_tensor

__all__ = ["MASK_ORIGINS", "Portraits", "find_images", "load_portraits", "read_image", "save_image"]

MASK_ORIGINS = ("files", "alpha", "parser")


@dataclass(frozen=True)
class Portraits:
    """Images that show one concept: a person (source) or a look (reference)."""

    paths: tuple[Path, ...]
    images: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    faces: Faces
    """As the parser saw them, but with the user's face masks where there are any."""
    mask_problems: Mapping[Path, str] = field(default_factory=dict)
    """Image -> what is wrong with its mask file; empty unless loaded with strict=False."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> "Portraits":
        return replace(self, paths=self.paths[index], images=self.images[index], faces=self.faces[index])


def load_portraits(
    folder: str | Path,
    backend: Backend,
    masks: str | Path | None = None,
    mask_from: str = "files",
    strict: bool = True,
) -> Portraits:
    """Read every image directly in a folder, in the order of the names, and crop each to its largest face.

    Args:
        folder: holds two or more PNG, JPEG or WebP files; hidden files and subfolders are not read.
        backend: its `image_size_px` is the size that comes back, its parser finds the faces.
        masks: folder of mask files, white on the face, each named like its image and of its size; by default
            the folder `masks` beside the images.
        mask_from: where face masks come from: "files"; "parser"; or "alpha", the images' own transparency, opaque on
            the face. It is a mask then and hides nothing: save the colours beneath it as well. Where there is neither
            file nor transparency, the parser's mask is taken.
        strict: refuse a mask that is empty, covers everything or is not of its image's size. If False, it is used as
            far as it goes, and `mask_problems` says so: for a look at what is wrong (`mask_doctor`).

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: fewer than two images, or files that cannot be used; the message has a line for each of them.

    Warns:
        Notice: on what was chosen for the user, such as the largest of several faces.
    """
    if mask_from not in MASK_ORIGINS:
        raise ValueError(f"mask_from: {mask_from!r} unknown. Choose from {list(MASK_ORIGINS)}.")
    paths, others = find_images(folder), find_other_pictures(folder)
    notices = [f"{path}: left out, not PNG, JPEG or WebP. Save it as one of these." for path in others]
    files = _find_masks(paths, Path(masks) if masks else None, notices) if mask_from == "files" else {}

    rows, bad, problems = [], [], {}
    for path in paths:
        try:
            picture = open_picture(path, background=None if mask_from == "alpha" else "white")
            framed = _find_face(path, picture, backend, notices)
            mask, origin = _user_mask(path, picture, files, mask_from, notices)
            faces = framed.faces
            if mask is not None:
                if problem := _mask_problem(mask, picture, framed, f"{origin or path}", path):
                    problems[path] = problem
                faces = replace(faces, face_mask=_cut_mask(mask.resize(picture.rgb.size), framed, faces.face_mask))
            rows.append((framed.image, faces))
        except (OSError, ValueError) as error:
            bad.append(describe_error(error))
    bad += problems.values() if strict else ()
    if bad:
        raise ValueError("\n".join(bad))
    for notice in notices:
        notify(notice)
    images, faces = zip(*rows)
    faces = Faces(*(torch.cat([getattr(row, part.name) for row in faces]) for part in fields(Faces)))
    return Portraits(paths, torch.stack(images), faces, problems)


def _find_face(path: Path, picture: Picture, backend: Backend, notices: list[str]) -> Framed:
    framed = frame_face(picture.rgb, backend)
    if framed is None:
        raise ValueError(f"{path}: no face found. Crop closer to the face or remove the file.")
    if framed.several:
        notices.append(f"{path}: several faces; the largest is taken. Crop to another if it is the wrong one.")
    side = framed.box[2] - framed.box[0]
    if 2 * side < backend.image_size_px:
        notices.append(f"{path}: {side} pixels around the face are enlarged to {backend.image_size_px}, and look soft.")
    return framed


def _find_masks(paths: tuple[Path, ...], folder: Path | None, notices: list[str]) -> dict[str, Path]:
    """Stem of an image -> its mask file."""
    at_least = 0 if folder is None else 1  # a folder that was asked for should hold something
    folder = folder or paths[0].parent / "masks"
    if at_least == 0 and not folder.is_dir():
        return {}
    files = {path.stem: path for path in find_images(folder, at_least)}
    unused = [file for stem, file in files.items() if stem not in {path.stem for path in paths}]
    notices += [f"{file}: no image of this name, the mask is not used." for file in unused]
    return files


def _user_mask(
    path: Path, picture: Picture, files: Mapping[str, Path], mask_from: str, notices: list[str]
) -> tuple[Image.Image | None, Path | None]:
    """The user's mask, uncropped, and its file if it has one; None if the parser's is to be taken."""
    if mask_from == "alpha":
        if picture.alpha is None:
            notices.append(f"{path}: not transparent anywhere; its mask is the face parser's.")
        return picture.alpha, None
    if path.stem in files:
        file = files[path.stem]
        return open_picture(file, background="black").rgb.convert("L"), file
    if files:
        notices.append(f"{path}: has no mask file; its mask is the face parser's.")
    return None, None


def _mask_problem(mask: Image.Image, picture: Picture, framed: Framed, name: str, path: Path) -> str | None:
    if mask.size != picture.rgb.size:
        sizes = "{} x {} pixels, its image {} {} x {}".format(*mask.size, path.name, *picture.rgb.size)
        return f"{name}: the mask is {sizes}. Save it at the image's size."
    used = _cut_mask(mask, framed, framed.faces.face_mask)
    if used.amax() < 0.5:
        return f"{name}: the mask is empty around the face. Paint the face white or remove the file."
    if used.amin() >= 0.5:
        return f"{name}: the mask covers everything. Paint the face white and the rest black, or remove the file."
    return None


def _cut_mask(mask: Image.Image, framed: Framed, like: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
    """The same crop as the image's."""
    # bilinear averages as it shrinks, and unlike Lanczos does not ring at the mask's edge
    return to_tensor(mask.resize(like.shape[-2:], Image.Resampling.BILINEAR, box=framed.box))[None].to(like)
