"""The small vision models of mini: identity embedder, face parser, style reader and restorer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor, nn

from mcpkg.method.face_alignment import align_faces
from mcpkg.world.attributes import ATTRIBUTES, IDENTITY, PARTS

CROP_PX = 80
TEMPLATE = ((0.33, 0.40), (0.67, 0.40), (0.50, 0.593), (0.373, 0.743), (0.627, 0.743))
"""Where the five landmarks of an average face lie in a crop, x and y in [0, 1]."""


class Net(nn.Module):
    """A network that keeps its arguments, so that a weights file is enough to build it again."""

    def __init__(self, **arguments: int):
        super().__init__()
        self.arguments = arguments

    @classmethod
    def load(cls, path: Path) -> Net:
        """The trained network of a weights file, in float32, frozen and in evaluation mode.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path}: no weights. Train them with python -m mcpkg.factory.train {Path(path).stem}"
            )
        with safe_open(path, "pt") as file:
            net = cls(**json.loads(file.metadata()["arguments"]))
            net.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()}, strict=True)  # noqa: SIM118
        return net.eval().requires_grad_(False)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Half the resolution, then a residual block."""
    return nn.Sequential(_conv(inputs, outputs, stride=2), _Residual(outputs))


# --- Identity embedder ---


def crop_faces(images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b 3 c c"]:
    """Aligned crops of the faces, as the embedder reads them."""
    return align_faces(images, landmarks, TEMPLATE, CROP_PX)


class IdentityEmbedder(Net):
    """Unit vectors that are close for images of the same person.

    It predicts the person's true parameters; `directions` then turns predictions into the coordinates that separate
    people best (`fit_directions`), so that one cosine threshold serves everyone.
    """

    def __init__(self, width: int = 32):
        super().__init__(width=width)
        traits = len(IDENTITY) + 1  # and how feminine the person presents
        self.body = nn.Sequential(
            _conv(3, width, stride=2),  # b w 40 40
            _Residual(width),
            _stage(width, 2 * width),  # 20 20
            _stage(2 * width, 3 * width),  # 10 10
            _stage(3 * width, 4 * width),  # 5 5
            nn.Flatten(),  # not pooled: positions within the face carry the identity
            nn.Linear(25 * 4 * width, 256),
            nn.BatchNorm1d(256),
            nn.SiLU(),
            nn.Linear(256, traits),
        )
        self.register_buffer("directions", torch.eye(traits))
        self.register_buffer("centre", torch.zeros(traits))

    def traits(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b t"]:
        """Predicted identity parameters, standardised."""
        return self.body(crop_faces(images, landmarks) * 2 - 1).float()

    def forward(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b t"]:
        return F.normalize((self.traits(images, landmarks) - self.centre) @ self.directions, dim=1)

    def fit_directions(self, traits: Float[Tensor, "n t"], identity: Int64[Tensor, " n"]) -> None:
        """Linear discriminant analysis: whiten the scatter within people, then weight each axis by its reliability.

        An axis on which people scatter `spread` times as much as the images of one person do gets the weight
        sqrt(spread / (1 + spread)).
        """
        traits = traits.double()
        _, person, times = identity.unique(return_inverse=True, return_counts=True)
        means = torch.zeros(len(times), traits.shape[1], dtype=traits.dtype).index_add_(0, person, traits)
        means = means / times[:, None]
        deviations = traits - means[person]
        degrees = len(traits) - len(times)  # each person's mean takes one degree of freedom
        within = deviations.T @ deviations / degrees
        within = within + 1e-4 * torch.eye(traits.shape[1], dtype=traits.dtype)
        values, vectors = torch.linalg.eigh(within)
        whiten = vectors / values.sqrt()
        between = (means @ whiten).T.cov()
        spread, axes = torch.linalg.eigh(between)
        spread = (spread - 1 / times.double().mean()).clamp(min=0)  # a mean of few images still scatters
        self.centre.copy_(means.mean(dim=0))
        self.directions.copy_(whiten @ axes * (spread / (1 + spread)).sqrt())


# --- Face parser ---


class FaceParserNet(Net):
    """Part logits at full resolution and the five landmarks, by a U-Net."""

    def __init__(self, width: int = 24):
        super().__init__(width=width)
        w = width
        self.enter = _conv(12, w)  # half resolution: four pixels in one cell
        self.down = nn.ModuleList([_stage(w, 2 * w), _stage(2 * w, 3 * w), _stage(3 * w, 4 * w), _stage(4 * w, 4 * w)])
        self.up = nn.ModuleList([_conv(8 * w, 4 * w), _conv(7 * w, 3 * w), _conv(5 * w, 2 * w), _conv(3 * w, w)])
        self.parts = nn.Conv2d(w, 4 * len(PARTS), 3, padding=1)
        self.heatmaps = nn.Conv2d(2 * w, 5, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b p h w"], Float[Tensor, "b 5 2"]]:
        """Part logits and landmarks; height and width are multiples of 32."""
        x = self.enter(F.pixel_unshuffle(images * 2 - 1, 2))
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for i, (merge, skip) in enumerate(zip(self.up, reversed(skips))):
            x = merge(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
            if i == 2:  # a quarter of the resolution
                landmarks = _soft_argmax(self.heatmaps(x).float())
        return F.pixel_shuffle(self.parts(x), 2).float(), landmarks


def _soft_argmax(heatmaps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k 2"]:
    """Mean position under each map, x and y in [0, 1]."""
    h, w = heatmaps.shape[-2:]
    weight = heatmaps.flatten(2).softmax(dim=-1).unflatten(2, (h, w))
    x = (torch.arange(w, device=weight.device) + 0.5) / w
    y = (torch.arange(h, device=weight.device) + 0.5) / h
    return torch.stack([(weight.sum(dim=2) * x).sum(dim=-1), (weight.sum(dim=3) * y).sum(dim=-1)], dim=-1)


def count_faces(
    part_logits: Float[Tensor, "b p h w"], min_fraction: float = 0.01, cells: int = 32
) -> Int64[Tensor, " b"]:
    """Connected regions of face that cover at least `min_fraction` of the frame.

    Cells that touch, also diagonally, belong to one region; so do parts that glasses, hair or a beard separate by one
    cell.
    """
    face = F.adaptive_avg_pool2d(part_logits.softmax(dim=1)[:, PARTS.index("face")][:, None], cells)
    near = F.max_pool2d((face > 0.35).float(), 3, stride=1, padding=1)
    labels = torch.arange(1, cells * cells + 1, device=face.device, dtype=torch.float32).view(1, 1, cells, cells) * near
    for _ in range(cells * cells):  # the highest label spreads over its region; a few dozen rounds suffice
        flooded = F.max_pool2d(labels, 3, stride=1, padding=1) * near
        if torch.equal(flooded, labels):
            break
        labels = flooded
    area = torch.zeros(len(face), cells * cells + 1, device=face.device)
    area.scatter_add_(1, labels.flatten(1).long(), face.flatten(1) / cells**2)
    return (area[:, 1:] >= min_fraction).sum(dim=1)


# --- Style reader ---


class StyleReaderNet(Net):
    """Reads hair, garment, background and treatment from the part of the image that a mask keeps."""

    def __init__(self, width: int = 24, features: int = 64):
        super().__init__(width=width, features=features)
        w = width
        self.body = nn.Sequential(
            _conv(16, w),  # b w 64 64: four pixels in one cell, three colours and the mask
            _stage(w, 2 * w),
            _stage(2 * w, 3 * w),
            _stage(3 * w, 4 * w),  # 8 8
            nn.Conv2d(4 * w, 32, 1),
            nn.AdaptiveAvgPool2d(8),
            nn.Flatten(),
            nn.Linear(32 * 64, features),
            nn.BatchNorm1d(features, affine=False),  # centred: two unrelated styles have a cosine near 0
        )
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(values)) for name, values in ATTRIBUTES.items()})

    def features(self, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        keep = keep_mask.to(images)
        seen = (images - 0.5) * keep  # the rest becomes mid-grey
        return self.body(F.pixel_unshuffle(torch.cat([seen * 2, keep], dim=1), 2)).float()

    def forward(
        self, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]
    ) -> dict[str, Float[Tensor, "b k"]]:
        """Logits of each attribute's values."""
        features = self.features(images, keep_mask)
        return {name: head(features).float() for name, head in self.heads.items()}

    def embed(self, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        """Unit vectors that are close for images in the same style."""
        return F.normalize(self.features(images, keep_mask), dim=1)


# --- Restorer ---


class RestorerNet(Net):
    """Doubles the size and removes noise and blur: a learned correction on top of bicubic enlargement."""

    def __init__(self, width: int = 32, blocks: int = 5):
        super().__init__(width=width, blocks=blocks)
        self.enter = nn.Conv2d(3, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        for name, module in self.named_modules():  # with torch's default initialisation a signal shrinks at every layer
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
                if name.endswith(".2") or name == "leave":  # so that training starts from plain enlargement
                    nn.init.zeros_(module.weight)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 2*h 2*w"]:
        x = self.enter(images * 4 - 2)
        for block in self.blocks:
            x = x + block(x)
        enlarged = F.interpolate(images, scale_factor=2.0, mode="bicubic", align_corners=False)
        return enlarged + F.pixel_shuffle(self.leave(F.silu(x)), 2)
