"""Face parser by a small detector and 68 landmarks, with face-api's weights (MIT)."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mcpkg.backends.faces.face_api import MEAN_RGB, load_arrays, read_arrays
from mcpkg.method.interfaces import Faces

SIZES_PX = (416, 608, 320)
"""Sizes that the image is scaled to, one after another until a face is found; small ones suit large faces."""
PADDINGS = (0.0, 0.5)
"""Border around the image, as a fraction of its side: a face that fills the frame needs space around it to be found."""
LEAST_SCORE = 0.5  # of a detection
OVERLAP = 0.4  # intersection over union from which two detections count as one face
ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
"""Width and height of the detector's prototype boxes, in cells."""
DETECTOR_MEAN_RGB = (117.001, 114.697, 97.404)  # of its training images, 0 to 255
EYES, NOSE, MOUTH = (slice(36, 42), slice(42, 48)), 30, (48, 54)
"""Of the 68 landmarks (iBUG 300-W): eye contours, nose tip and mouth corners, viewer's left first."""
FOREHEAD = 0.5  # height above the brows, in distances from brows to nose tip


class _Separable(nn.Module):
    """Depthwise separable convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(_pad(x, self.stride)))


def _pad(x: Tensor, stride: int) -> Tensor:
    """Pad as TensorFlow's "same" does for a window of 3: at a stride of 2 an even side only at its end."""
    return functional.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class Detector(nn.Module):
    """Scores and boxes of faces, in the manner of YOLOv2."""

    def __init__(self):
        super().__init__()
        widths = (16, 32, 64, 128, 256, 512)
        self.first = nn.Conv2d(3, widths[0], 3)
        self.rest = nn.ModuleList(_Separable(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[-1], 5 * len(ANCHORS), 1)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 4"]]:
        """Args: images: RGB in [0, 1]. Returns: scores, and boxes as left, top, right, bottom in [0, 1]."""
        x = images - torch.tensor(DETECTOR_MEAN_RGB, device=images.device).view(3, 1, 1) / 255
        x = functional.leaky_relu(self.first(x), 0.1)
        for layer in self.rest:
            x = functional.leaky_relu(layer(functional.max_pool2d(x, 2, ceil_mode=True)), 0.1)
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
        out = self.head(x).unflatten(1, (len(ANCHORS), 5))  # b a 5 g g
        cells = out.shape[-1]
        at = torch.arange(cells, device=x.device)
        anchors = torch.tensor(ANCHORS, device=x.device)[:, :, None, None]  # a 2 1 1
        x_centre, y_centre = out[:, :, 0].sigmoid() + at, out[:, :, 1].sigmoid() + at[:, None]  # b a g g
        width, height = out[:, :, 2].exp() * anchors[:, 0], out[:, :, 3].exp() * anchors[:, 1]
        corners = (x_centre - width / 2, y_centre - height / 2, x_centre + width / 2, y_centre + height / 2)
        return out[:, :, 4].sigmoid().flatten(1), torch.stack(corners, dim=-1).flatten(1, 3) / cells


class Landmarks(nn.Module):
    """68 landmarks of a face that fills the image."""

    def __init__(self):
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.levels = nn.ModuleList()
        for a, b in itertools.pairwise(widths):
            first = nn.Conv2d(a, b, 3, 2) if a == 3 else _Separable(a, b, 2)
            self.levels.append(nn.ModuleList([first, *(_Separable(b, b) for _ in range(3))]))
        self.head = nn.Linear(widths[-1], 2 * 68)

    def forward(self, crops: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 68 2"]:
        """Args: crops: RGB in [0, 1]. Returns: x, y in [0, 1] of the crop."""
        x = crops - torch.tensor(MEAN_RGB, device=crops.device).view(3, 1, 1) / 255
        for first, *others in self.levels:
            x = first(_pad(x, 2) if isinstance(first, nn.Conv2d) else x).relu()
            total = x
            for layer in others:  # each reads the sum of all outputs before it
                total = total + layer(total.relu())
            x = total.relu()
        return self.head(functional.avg_pool2d(x, 7).flatten(1)).unflatten(1, (68, 2))


class LandmarkParser:
    """`FaceParser` that takes the hull of the landmarks as face, with the forehead up to about the hairline.

    It has two parts: everything else, and the face.
    """

    def __init__(self, detector: nn.Module, landmarks: nn.Module):
        self.detector, self.landmarks = detector, landmarks

    @torch.no_grad()
    def parse(self, images: Float[Tensor, "b 3 s s"]) -> Faces:
        rows = [self._parse_one(image) for image in images.float()]
        count, points = torch.tensor([n for n, _ in rows], device=images.device), torch.stack([p for _, p in rows])
        mask = torch.stack([
            face_hull(p, images.shape[-1]) if n else images.new_zeros(1, *images.shape[-2:]) for n, p in rows
        ])  # fmt: skip
        five = (*(points[:, eye].mean(dim=1) for eye in EYES), points[:, NOSE], *(points[:, i] for i in MOUTH))
        return Faces(count > 0, count, mask, torch.cat((1 - mask, mask), dim=1), torch.stack(five, dim=1))

    def _parse_one(self, image: Float[Tensor, "3 s s"]) -> tuple[int, Float[Tensor, "68 2"]]:
        """Number of faces, and the landmarks of the largest."""
        for padding in PADDINGS:
            border = round(padding * image.shape[-1])
            padded = functional.pad(image[None], (border,) * 4, mode="constant", value=0.5)
            scale, shift = padded.shape[-1] / image.shape[-1], border / image.shape[-1]
            for size in SIZES_PX:
                small = functional.interpolate(padded, (size, size), mode="bilinear", antialias=True)
                scores, boxes = self.detector(small)
                if len(found := remove_overlaps(scores[0], boxes[0])):
                    areas = (found[:, 2:] - found[:, :2]).prod(dim=1)
                    return len(found), self._landmarks(padded, found[areas.argmax()]) * scale - shift
        return 0, image.new_zeros(68, 2)

    def _landmarks(self, image: Float[Tensor, "1 3 s s"], box: Float[Tensor, " 4"]) -> Float[Tensor, "68 2"]:
        centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
        steps = (torch.arange(112, device=image.device) + 0.5) / 112 - 0.5
        y, x = torch.meshgrid(steps * side + centre[1], steps * side + centre[0], indexing="ij")
        crop = functional.grid_sample(image, torch.stack((x, y), dim=-1)[None] * 2 - 1, align_corners=False)
        return (self.landmarks(crop)[0] - 0.5) * side + centre


def remove_overlaps(scores: Float[Tensor, " n"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "m 4"]:
    """Boxes with at least `LEAST_SCORE`, best first, without those that overlap a better one."""
    order = scores.argsort(descending=True)
    left, kept = boxes[order[scores[order] >= LEAST_SCORE]], []
    while len(left):
        best, others = left[0], left[1:]
        kept.append(best)
        shared = (torch.minimum(best[2:], others[:, 2:]) - torch.maximum(best[:2], others[:, :2])).clamp(min=0).prod(1)
        together = (best[2:] - best[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1) - shared
        left = others[shared / together < OVERLAP]
    return torch.stack(kept) if kept else boxes[:0]


def face_hull(points: Float[Tensor, "68 2"], size_px: int) -> Float[Tensor, "1 {size_px} {size_px}"]:
    """1 within the hull of jaw, brows and forehead, 0 outside, with an edge a pixel wide."""
    jaw, brows, nose = points[:17], points[17:27], points[NOSE]
    raised = brows + FOREHEAD * (brows.mean(dim=0) - nose)
    corners = torch.tensor(convex_hull(torch.cat((jaw, brows, raised)).tolist()), device=points.device) * size_px
    edges = corners.roll(-1, dims=0) - corners  # n 2
    steps = torch.arange(size_px, device=points.device) + 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    across = torch.stack((x, y), dim=-1)[None] - corners[:, None, None]  # n s s 2
    area = edges[:, None, None, 0] * across[..., 1] - edges[:, None, None, 1] * across[..., 0]
    distance = area / edges.norm(dim=1)[:, None, None]  # px, inside above 0
    return (distance.amin(dim=0) + 0.5).clamp(0, 1)[None]


def convex_hull(points: list[list[float]]) -> list[tuple[float, float]]:
    """Corners of the hull, each turning the same way (Andrew's monotone chain)."""

    def half(points: list) -> list:
        kept = []
        for x, y in points:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    ordered = sorted(set(map(tuple, points)))
    return half(ordered) + half(ordered[::-1])


def load_landmark_parser(folder: str | Path) -> LandmarkParser:
    """The parser with the weights in face-api's folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    detector, landmarks = Detector(), Landmarks()
    names = _conv("conv0", "first") | _conv("conv8", "head")
    for i in range(len(detector.rest)):
        names |= _separable(f"conv{i + 1}", f"rest.{i}")
    load_arrays(detector, read_arrays(folder, "tiny_face_detector"), names, folder)
    names = {"head.weight": "fc/weights", "head.bias": "fc/bias"}
    for level in range(len(landmarks.levels)):
        for i in range(4):
            names |= (_conv if level == i == 0 else _separable)(f"dense{level}/conv{i}", f"levels.{level}.{i}")
    load_arrays(landmarks, read_arrays(folder, "face_landmark_68"), names, folder)
    return LandmarkParser(detector, landmarks)


def _conv(there: str, here: str) -> dict[str, str]:
    return {f"{here}.weight": f"{there}/filters", f"{here}.bias": f"{there}/bias"}


def _separable(there: str, here: str) -> dict[str, str]:
    return {
        f"{here}.depthwise.weight": f"{there}/depthwise_filter",
        f"{here}.pointwise.weight": f"{there}/pointwise_filter",
        f"{here}.pointwise.bias": f"{there}/bias",
    }
