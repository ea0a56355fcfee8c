"""Find the face in a picture of any shape, and the square around it that training will see."""

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

FRAME_PER_FACE = 3.0
"""Side of the square in heights (or widths, if larger) of the face: head, shoulders and some background."""
FACE_FROM_TOP = 0.45
"""Where the middle of the face lies in the square."""
CELLS = 32  # a side, of the grid on which separate faces are told apart
SURE = 0.35  # share of a cell that is face, from which on it belongs to one


@dataclass(frozen=True)
class Framed:
    """The part of a picture that is used, and the face in it."""

    box: Box
    """A square within the picture."""
    image: Float[Tensor, "3 h w"]
    faces: Faces
    """One row; its mask holds the largest face only."""
    several: bool
    """Whether there are more faces in the picture."""


def frame_face(picture: Image.Image, backend: Backend) -> Framed | None:
    """Crop to the largest face with a margin; None if there is no face.

    The picture is looked at in squares as high as its short side, for parsers read squares. The square that is cut
    out stays within the picture, so nothing is ever padded: a tight portrait comes back whole.
    """
    looks = square_windows(*picture.size)
    faces = backend.face_parser.parse(torch.stack([_cut(picture, look, backend) for look in looks]))
    seen = {look: _face_box(faces.face_mask[i], look) for i, look in enumerate(looks) if faces.found[i]}
    if not seen:
        return None
    look, face = max(seen.items(), key=lambda item: _area(item[1]))
    elsewhere = any(not _overlap(face, other) for other in seen.values())
    several = elsewhere or bool(faces.count[looks.index(look)] > 1)
    for box in (_frame(face, picture.size), look):  # a parser may lose the face in a crop that it found in the whole
        image = _cut(picture, box, backend)
        faces = backend.face_parser.parse(image[None])
        if faces.found:
            if faces.count > 1:
                faces = replace(faces, face_mask=largest_part(faces.face_mask[0])[None])
            return Framed(box, image, faces, several)
    return None


def square_windows(width: int, height: int) -> list[Box]:
    """Squares as large as the short side, evenly along the long one; each shares half or more with the next."""
    side, length = min(width, height), max(width, height)
    gaps = math.ceil(2 * (length - side) / side)
    starts = [round(i * (length - side) / max(1, gaps)) for i in range(gaps + 1)]
    wide = width > height
    return [(at, 0, at + side, side) if wide else (0, at, side, at + side) for at in starts]


def largest_part(mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """The mask without all but its largest part; what glasses or hair part by a cell or two stays together."""
    share = functional.adaptive_avg_pool2d(mask.float(), CELLS)  # 1 c c
    near = functional.max_pool2d((share > SURE).float(), 3, stride=1, padding=1)
    labels, before = torch.arange(1, CELLS**2 + 1).to(share).view(1, CELLS, CELLS) * near, None
    while before is None or not torch.equal(labels, before):  # the highest number floods its part
        labels, before = functional.max_pool2d(labels, 3, stride=1, padding=1) * near, labels
    areas = torch.bincount(labels.long().flatten(), weights=share.flatten())
    areas[0] = 0  # of what belongs to no part
    keep = (labels == areas.argmax()).to(mask)
    return mask * functional.interpolate(keep[None], mask.shape[-2:])[0]


def _cut(picture: Image.Image, box: Box, backend: Backend) -> Float[Tensor, "3 h w"]:
    size = (backend.image_size_px, backend.image_size_px)
    return to_tensor(picture.resize(size, Image.Resampling.LANCZOS, box=box)).to(backend.device)


def _face_box(mask: Float[Tensor, "1 h w"], window: Box) -> Box:
    """Around the largest part of a window's mask, in pixels of the picture."""
    inside = largest_part(mask)[0] > mask.amax() / 2
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    scale, (left, top) = (window[2] - window[0]) / mask.shape[-1], window[:2]
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return tuple(round(edge.item() * scale) + offset for edge, offset in zip(edges, (left, top, left, top)))


def _frame(face: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = face
    side = min(round(FRAME_PER_FACE * max(right - left, bottom - top)), *size)
    x = (left + right) / 2 - side / 2
    y = (top + bottom) / 2 - side * FACE_FROM_TOP
    x, y = (round(min(max(at, 0), length - side)) for at, length in zip((x, y), size))
    return x, y, x + side, y + side


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
