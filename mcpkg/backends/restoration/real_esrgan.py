"""Four times the size by Real-ESRGAN (Wang et al. 2021): its x4plus network in plain torch."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mcpkg.backends.restoration.ncnn import read_convolutions
from mcpkg.util.safetensors_io import load_published, read_published

SCALE = 4
TILE_PX = 192
"""Side of the tiles that are enlarged one at a time, so that memory does not grow with the image."""
OVERLAP_PX = 16
"""Margin around each tile, enlarged with it and then cut away, so that no seams show."""


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads the outputs of all before it."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for i in range(5):
            self.add_module(f"conv{i + 1}", nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, functional.leaky_relu(conv(seen), 0.2)), dim=1)
        return x + 0.2 * self.conv5(seen)


class ResidualBlock(nn.Module):
    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Residual in residual dense blocks, then two enlargements; names as in the published weights."""

    def __init__(self, width: int = 64, blocks: int = 23, growth: int = 32):
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            nn.Conv2d(width, width, 3, padding=1) for _ in range(4)
        )
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 4*h 4*w"]:
        x = self.conv_first(images)
        x = x + self.conv_body(self.body(x))
        for conv in (self.conv_up1, self.conv_up2):
            x = functional.leaky_relu(conv(functional.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(functional.leaky_relu(self.conv_hr(x), 0.2))


class RealEsrgan:
    """`Restorer` that enlarges four times, tile by tile."""

    def __init__(self, net: nn.Module, tile_px: int = TILE_PX, overlap_px: int = OVERLAP_PX):
        self.net, self.tile_px, self.overlap_px = net, tile_px, overlap_px

    @torch.no_grad()
    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 4*h 4*w"]:
        height, width = images.shape[-2:]
        out = images.new_empty(len(images), 3, SCALE * height, SCALE * width)
        weight = next(self.net.parameters())
        for top in range(0, height, self.tile_px):
            for left in range(0, width, self.tile_px):
                rows, columns = self._around(top, height), self._around(left, width)
                tile = images[..., slice(*rows), slice(*columns)].to(weight)
                large = torch.cat([self.net(one) for one in tile.split(1)])
                up, aside = SCALE * (top - rows[0]), SCALE * (left - columns[0])
                below, beside = SCALE * (top + self.tile_px), SCALE * (left + self.tile_px)
                target = out[..., SCALE * top : below, SCALE * left : beside]
                target.copy_(large[..., up : up + target.shape[-2], aside : aside + target.shape[-1]])
        return out.clamp(0, 1)

    def _around(self, start: int, length: int) -> tuple[int, int]:
        """Start and end of the tile that begins at `start`, with its overlap."""
        return max(0, start - self.overlap_px), min(length, start + self.tile_px + self.overlap_px)


def load_real_esrgan(path: str | Path, sha256: str = "") -> RealEsrgan:
    """The restorer with published weights.

    Args:
        path: RealESRGAN_x4plus.pth, the same as safetensors, or realesrgan-x4plus.param in ncnn's format.
        sha256: expected hash of the file; empty for any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds another network.
    """
    path, net = Path(path), RRDBNet()
    if path.suffix == ".param":
        tensors = _by_order(net, path)
    else:
        tensors = read_published(path, sha256)
    load_published(net, tensors, path)
    return RealEsrgan(net)


def _by_order(net: RRDBNet, path: Path) -> dict[str, Tensor]:
    """Weights by our names: ncnn numbers its layers, in the order of our modules."""
    layers = read_convolutions(path)
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    if len(names) != len(layers):
        found = f"{len(layers)} convolutions, x4plus has {len(names)}"
        raise ValueError(f"{path}: has {found}. Give realesrgan-x4plus.param.")
    named = zip(names, layers)
    return {f"{name}.{kind}": part for name, layer in named for kind, part in zip(("weight", "bias"), layer)}
