"""Find the face in a picture of any shape, and crop the square around it that training reads."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mcpkg.data.image_files import Box
from mcpkg.method.interfaces import Backend, Faces
from mcpkg.util.images import to_tensor

CROP_PER_FACE = 3.0
"""Side of the square in units of the face's height (or width, if larger): head, shoulders and some background."""
FACE_FROM_TOP = 0.45
"""Height of the square above the middle of the face, as a fraction."""
CELLS = 32  # per side, of the coarse grid on which separate faces are distinguished
SURE = 0.9  # mean of the mask inside it, from which it counts as a face
FACE_THRESHOLD = 0.35  # a cell counts as face if at least this fraction of it is face


@dataclass(frozen=True)
class FaceCrop:
    """The part of a picture that training uses, and the face in it."""

    box: Box
    """A square within the picture."""
    image: Float[Tensor, "3 h w"]
    faces: Faces
    """One row; its mask holds the largest face only."""
    several: bool
    """Whether there are more faces in the picture."""


def crop_to_face(picture: Image.Image, backend: Backend) -> FaceCrop | None:
    """Crop to the largest face with a margin; return None if there is no face.

    Parsers read squares, so the face is searched in square windows as large as the picture's short side. The crop
    stays within the picture, so nothing is ever padded: a tight portrait is returned whole.
    """
    windows = square_windows(*picture.size)
    faces = backend.face_parser.parse(torch.stack([_cut(picture, window, backend) for window in windows]))
    found = {window: _face_box(faces.face_mask[i], window) for i, window in enumerate(windows) if faces.found[i]}
    if not found:
        return None
    window, face = max(found.items(), key=lambda item: _area(item[1]))
    elsewhere = any(not _overlap(face, other) for other in found.values())
    several = elsewhere or bool(faces.count[windows.index(window)] > 1)
    for box in (_square_around(face, picture.size), window):  # a parser may miss in a crop a face that it found before
        image = _cut(picture, box, backend)
        faces = backend.face_parser.parse(image[None])
        if faces.found and looks_like_a_face(faces):
            if faces.count > 1:
                faces = replace(faces, face_mask=largest_part(faces.face_mask[0])[None])
            return FaceCrop(box, image, faces, several)
    return None


def looks_like_a_face(faces: Faces) -> bool:
    """Whether the parser is sure of the one face that it found.

    The least that sets a face apart from noise, in which parsers also find some. With the built-in parser, all of 50
    strangers pass, also when they are dark, noisy, compressed or blurred over 2 pixels (over 4, 40 do); of 240 pictures
    of noise, 140 of which show it a face, 2 do.
    """
    mask = faces.face_mask[0, 0]  # h w
    inside = mask > 0.5
    return bool(inside.any() and mask[inside].mean() >= SURE)


def square_windows(width: int, height: int) -> list[Box]:
    """Return squares as large as the short side, evenly spaced along the long one; each overlaps half of the next."""
    side, length = min(width, height), max(width, height)
    gaps = math.ceil(2 * (length - side) / side)
    starts = [round(i * (length - side) / max(1, gaps)) for i in range(gaps + 1)]
    wide = width > height
    return [(at, 0, at + side, side) if wide else (0, at, side, at + side) for at in starts]


def largest_part(mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Keep only the largest connected part of a mask; parts that are one or two cells apart count as connected.

    So glasses or hair across a face do not split it.
    """
    fraction = functional.adaptive_avg_pool2d(mask.float(), CELLS)  # 1 c c
    near = functional.max_pool2d((fraction > FACE_THRESHOLD).float(), 3, stride=1, padding=1)
    labels, before = torch.arange(1, CELLS**2 + 1).to(fraction).view(1, CELLS, CELLS) * near, None
    while before is None or not torch.equal(labels, before):  # the highest number spreads over its part
        labels, before = functional.max_pool2d(labels, 3, stride=1, padding=1) * near, labels
    areas = torch.bincount(labels.long().flatten(), weights=fraction.flatten())
    areas[0] = 0  # cells of no part
    keep = (labels == areas.argmax()).to(mask)
    return mask * functional.interpolate(keep[None], mask.shape[-2:])[0]


def _cut(picture: Image.Image, box: Box, backend: Backend) -> Float[Tensor, "3 h w"]:
    size = (backend.image_size_px, backend.image_size_px)
    return to_tensor(picture.resize(size, Image.Resampling.LANCZOS, box=box)).to(backend.device)


def _face_box(mask: Float[Tensor, "1 h w"], window: Box) -> Box:
    """Return the box around the largest part of a window's mask, in pixels of the picture."""
    inside = largest_part(mask)[0] > mask.amax() / 2
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    scale, (left, top) = (window[2] - window[0]) / mask.shape[-1], window[:2]
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return tuple(round(edge.item() * scale) + offset for edge, offset in zip(edges, (left, top, left, top)))


def _square_around(face: Box, size: tuple[int, int]) -> Box:
    """Return the square to crop for a face, moved so that it lies within a picture of this size."""
    left, top, right, bottom = face
    side = min(round(CROP_PER_FACE * max(right - left, bottom - top)), *size)
    x = (left + right) / 2 - side / 2
    y = (top + bottom) / 2 - side * FACE_FROM_TOP
    x, y = (round(min(max(at, 0), length - side)) for at, length in zip((x, y), size))
    return x, y, x + side, y + side


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
