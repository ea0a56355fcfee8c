"""Images as tensors, as pixels and as files."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mcpkg.util.files import replace_whole

if TYPE_CHECKING:  # a quarter of a second, for which training has no use
    from matplotlib.figure import Figure


def to_tensor(image: Image.Image) -> Float[Tensor, "c h w"]:
    """Convert an image of 8 bits per channel to values in [0, 1]."""
    pixels = np.atleast_3d(np.asarray(image, dtype=np.float32) / 255)  # h w c
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def save_image(image: Float[Tensor, "3 h w"], path: str | Path) -> None:
    """Write one image in [0, 1] as PNG; the file appears whole or not at all."""
    with replace_whole(path) as partial:
        Image.fromarray(to_8_bit(image)).save(partial, format="PNG")


def overlay(image: Float[Tensor, "3 h w"], heatmap: Float[Tensor, "k l"]) -> np.ndarray:
    """The image in grey with a heatmap over it, brightest at the heatmap's own maximum: h w 3."""
    from matplotlib import colormaps

    heatmap = functional.interpolate(heatmap[None, None].float(), image.shape[-2:], mode="bicubic")[0, 0].clamp_min(0)
    heatmap = (heatmap / heatmap.amax().clamp_min(1e-12)).cpu().numpy()  # h w
    grey = to_pixels(image).mean(axis=-1, keepdims=True)
    return 0.4 * grey + 0.6 * colormaps["magma"](heatmap)[..., :3]


def to_pixels(image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 3"]:
    """Convert to the format of matplotlib and Pillow: values in [0, 1], channels last."""
    return image.detach().clamp(0, 1).permute(1, 2, 0).cpu().float().numpy()


def to_8_bit(images: Float[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """Convert values in [0, 1] to the nearest of 256 levels, channels last; values outside are clipped."""
    return (images.detach().clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()


def save_figure(figure: "Figure", path: str | Path, dpi: int = 150) -> None:
    """Write a figure as PNG; the file appears whole or not at all."""
    with replace_whole(path) as partial:
        write_figure(figure, partial, dpi)


def write_figure(figure: "Figure", file: str | Path | BytesIO, dpi: int) -> None:
    """Write a figure as PNG, all of its text as it is: a $ in a file's name begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(file, format="png", dpi=dpi)
