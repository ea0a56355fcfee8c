"""Load a folder of portraits: upright square images, and the face in each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mcpkg.data.face_crop import FaceCrop, crop_to_face
from mcpkg.data.image_files import Picture, open_picture
from mcpkg.data.image_folders import find_images, find_other_pictures
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.util.errors import describe_error, notify
from mcpkg.util.images import to_tensor

MASK_ORIGINS = ("files", "alpha", "parser")


@dataclass(frozen=True)
class Portraits:
    """Images that show one concept: a person (source) or a look (reference)."""

    paths: tuple[Path, ...]
    images: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    faces: Faces
    """As the parser found them, but with the user's face masks where given."""
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
    """Read every image directly in a folder, sorted by name, and crop each to its largest face.

    Args:
        folder: contains two or more PNG, JPEG or WebP files; hidden files and subfolders are skipped.
        backend: its `image_size_px` is the size of the result, its parser finds the faces.
        masks: folder of mask files, white on the face, each named like its image and of its size; by default
            the folder `masks` beside the images.
        mask_from: where face masks come from: "files"; "parser"; or "alpha", the images' transparency, opaque on the
            face. Transparency is then only a mask and hides nothing: the file must keep the colours beneath it. An
            image with neither mask file nor transparency gets the parser's mask.
        strict: raise on a mask that is empty, covers everything or has another size than its image. If False, it is
            used nevertheless and listed in `mask_problems`, to be checked with `diagnose_masks`.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: unknown `mask_from`, fewer than two images, or files that cannot be used; the message has one line
            for each file.

    Warns:
        Notice: about a choice made for the user, such as the largest of several faces.
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
            crop = _find_face(path, picture, backend, notices)
            mask, origin = _user_mask(path, picture, files, mask_from, notices)
            faces = crop.faces
            if mask is not None:
                if problem := _mask_problem(mask, picture, crop, f"{origin or path}", path):
                    problems[path] = problem
                faces = replace(faces, face_mask=_cut_mask(mask.resize(picture.rgb.size), crop, faces.face_mask))
            rows.append((crop.image, faces))
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


def _find_face(path: Path, picture: Picture, backend: Backend, notices: list[str]) -> FaceCrop:
    """Crop to the largest face, adding notices; raise ValueError if there is no face."""
    crop = crop_to_face(picture.rgb, backend)
    if crop is None:
        raise ValueError(f"{path}: no face found. Crop closer to the face or remove the file.")
    if crop.several:
        notices.append(f"{path}: several faces; the largest is used. Crop the picture if it is the wrong one.")
    side = crop.box[2] - crop.box[0]
    if 2 * side < backend.image_size_px:
        notices.append(f"{path}: {side} pixels around the face are enlarged to {backend.image_size_px}, and look soft.")
    return crop


def _find_masks(paths: tuple[Path, ...], folder: Path | None, notices: list[str]) -> dict[str, Path]:
    """Return the mask files by the stem of their image; add notices about masks without an image."""
    at_least = 0 if folder is None else 1  # a folder given by the user must not be empty
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
    """Return the user's mask, uncropped, and its file if it has one; no mask if the parser's is to be used."""
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


def _mask_problem(mask: Image.Image, picture: Picture, crop: FaceCrop, name: str, path: Path) -> str | None:
    """Return one line about what makes the user's mask unusable, None if it is usable."""
    if mask.size != picture.rgb.size:
        sizes = "{} x {} pixels, its image {} {} x {}".format(*mask.size, path.name, *picture.rgb.size)
        return f"{name}: the mask is {sizes}. Save it in the size of the image."
    used = _cut_mask(mask, crop, crop.faces.face_mask)
    if used.amax() < 0.5:
        return f"{name}: the mask is empty around the face. Paint the face white or remove the file."
    if used.amin() >= 0.5:
        return f"{name}: the mask covers everything. Paint the face white and the rest black, or remove the file."
    return None


def _cut_mask(mask: Image.Image, crop: FaceCrop, like: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
    """Crop and resize the mask as the image was."""
    # bilinear averages when shrinking, and unlike Lanczos does not ring at the mask's edge
    return to_tensor(mask.resize(like.shape[-2:], Image.Resampling.BILINEAR, box=crop.box))[None].to(like)
