"""Face parser that separates skin, brows, eyes, nose, lips and more: facexlib's face parsing networks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcpkg.method.face_alignment import FFHQ_TEMPLATE, align_faces, place_back
from mcpkg.method.interfaces import FaceParser, Faces
from mcpkg.util.errors import notify
from mcpkg.util.optional import import_optional
from mcpkg.util.safetensors_io import load_published, read_published

CROP_PX = 512
PARTS = (
    "background", "skin", "brows", "eyes", "glasses", "ears", "earrings", "nose", "lips", "hair", "hat", "necklace",
    "neck", "clothes",
)  # fmt: skip
"""The parts: classes of CelebAMask-HQ, left and right as one; lips with everything between them."""
FACE = ("skin", "brows", "eyes", "nose", "lips")
"""Parts that count as face by default."""
CLASSES = {
    "parsenet": (
        "background", "skin", "nose", "glasses", "eyes", "eyes", "brows", "brows", "ears", "ears", "lips", "lips",
        "lips", "hair", "hat", "earrings", "necklace", "neck", "clothes",
    ),
    "bisenet": (
        "background", "skin", "brows", "brows", "eyes", "eyes", "glasses", "ears", "ears", "earrings", "nose", "lips",
        "lips", "lips", "neck", "necklace", "clothes", "hair", "hat",
    ),
}  # fmt: skip
"""Network -> the part that each of its 19 outputs is."""
SCALES = {
    "parsenet": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "bisenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Network -> mean and standard deviation of RGB that it was trained with."""
LEAST_OVERLAP = 0.3
"""Fraction of the landmarks' hull that a parse must mark as face; below, it counts as failed."""


class PartsParser:
    """`FaceParser` that separates the parts of the face that another parser found.

    If it sees no face there, the mask of the other parser stays, and a notice states it.
    """

    def __init__(self, net: nn.Module, kind: str, finder: FaceParser, parts: Sequence[str] = FACE):
        """
        Args:
            net: crops to 19 classes, or to a tuple that begins with them.
            kind: one of `CLASSES`.
            finder: such as `LandmarkParser`.
            parts: what counts as face, of `PARTS`.

        Raises:
            ValueError: an unknown part or kind.
        """
        if kind not in CLASSES:
            raise ValueError(f"face parser {kind!r} is not known. Choose one of: {', '.join(CLASSES)}.")
        if unknown := [part for part in parts if part not in PARTS[1:]]:
            raise ValueError(f"parts {unknown} are not known. Choose of: {', '.join(PARTS[1:])}.")
        if not parts:
            raise ValueError(f"no parts given. Choose of: {', '.join(PARTS[1:])}.")
        self.net, self.kind, self.finder, self.face = net, kind, finder, tuple(parts)

    @torch.no_grad()
    def parse(self, images: Float[Tensor, "b 3 s s"]) -> Faces:
        faces = self.finder.parse(images)
        size = images.shape[-1]
        parts = torch.zeros(len(images), len(PARTS), size, size, device=images.device)  # b p s s
        parts[:, 0], parts[:, 1] = 1 - faces.face_mask[:, 0], faces.face_mask[:, 0]
        mask, missed = faces.face_mask.clone(), 0
        for i in faces.found.nonzero().flatten().tolist():  # one by one, because a crop has 512 pixels a side
            parsed = self._parse_parts(images[i : i + 1], faces.landmarks[i : i + 1])
            face = parsed[0, [PARTS.index(part) for part in self.face]].sum(dim=0)  # s s
            hull = faces.face_mask[i, 0]
            if (face * hull).sum() >= LEAST_OVERLAP * hull.sum():
                parts[i], mask[i, 0] = parsed[0], face.clamp(0, 1)
            else:
                missed += 1
        if missed:
            notify(f"{self.kind} finds no face where the landmarks are; their hull is the mask there.")
        return replace(faces, face_mask=mask, parts=parts)

    def _parse_parts(
        self, image: Float[Tensor, "1 3 s s"], landmarks: Float[Tensor, "1 5 2"]
    ) -> Float[Tensor, "1 p s s"]:
        mean, deviation = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in SCALES[self.kind])
        crop = (align_faces(image, landmarks, FFHQ_TEMPLATE, CROP_PX, fit="crop") - mean) / deviation
        outputs = self.net(crop)
        classes = (outputs[0] if isinstance(outputs, tuple) else outputs).softmax(dim=1)  # 1 19 k k
        index = torch.tensor([PARTS.index(part) for part in CLASSES[self.kind]], device=image.device)
        parts = classes.new_zeros(1, len(PARTS), *classes.shape[2:]).index_add_(1, index, classes)
        placed = place_back(parts, landmarks, FFHQ_TEMPLATE, image.shape[-1], fit="crop")
        placed[:, 0] += 1 - placed.sum(dim=1)  # around the crop
        return placed


def load_parts_parser(
    path: str | Path, finder: FaceParser, parts: Sequence[str] = FACE, sha256: str = ""
) -> PartsParser:
    """The parser with the weights of parsing_parsenet.pth or parsing_bisenet.pth, recognised by the names in the file.

    Args:
        finder, parts: see `PartsParser`.
        sha256: expected hash of the file; empty for any.

    Raises:
        FileNotFoundError, ValueError: see `read_published`.
        MissingPackage: facexlib or its torchvision is missing.
    """
    tensors = read_published(path, sha256)
    kind = "bisenet" if any(name.startswith("cp.") for name in tensors) else "parsenet"
    net = build_parsing(kind)
    load_published(net, tensors, path)
    return PartsParser(net, kind, finder, parts)


def build_parsing(kind: str) -> nn.Module:
    """The network without its weights: crops of 512 px to 19 classes."""
    module = import_optional(f"facexlib.parsing.{kind}", "restore")
    if kind == "bisenet":
        return module.BiSeNet(num_class=19).eval()
    return module.ParseNet(in_size=CROP_PX, out_size=CROP_PX, parsing_ch=19).eval()
