"""Style and beauty as the paper's Table 1 scores them, by CLIP ViT-L/14 (Radford et al. 2021)."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mcpkg.util.errors import first_line
from mcpkg.util.safetensors_io import load_published, read_published

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

HUB_ID = "openai/clip-vit-large-patch14"
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of RGB in CLIP's training images."""
GREY = 0.5
"""Value that hides the face. The paper does not specify with what the face is masked."""


class ClipImages:
    """CLIP's image encoder: images to unit vectors."""

    def __init__(self, model: "CLIPVisionModelWithProjection"):
        self.model = model

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Args: images: square, RGB in [0, 1]."""
        side = self.model.config.image_size
        small = functional.interpolate(images.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(x, device=small.device).view(3, 1, 1) for x in (MEAN, DEVIATION))
        vectors = self.model(pixel_values=((small - mean) / deviation).to(self.model.dtype)).image_embeds
        return functional.normalize(vectors.float(), dim=1)


class MaskedClipStyle:
    """`StyleReader`: CLIP's vector of the image with the face hidden (masked CLIP similarity)."""

    def __init__(self, clip: ClipImages):
        self.clip = clip

    def embed(self, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        return self.clip.embed(images * keep_mask + GREY * (1 - keep_mask))


class AestheticHead(nn.Module):
    """LAION's improved aesthetic predictor: CLIP vectors to a score of about 1 to 10, by linear layers only."""

    def __init__(self, width: int = 768):
        super().__init__()
        widths, dropouts = (width, 1024, 128, 64, 16, 1), (0.2, 0.2, 0.1, None, None)
        layers = []
        for a, b, dropout in zip(widths, widths[1:], dropouts):
            layers += [nn.Linear(a, b)] + ([nn.Dropout(dropout)] if dropout else [])
        self.layers = nn.Sequential(*layers)  # the same names as in the published weights

    def forward(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.layers(vectors)[:, 0]


class ClipAesthetic:
    """`Aesthetic`: the rating that people would give an image."""

    def __init__(self, clip: ClipImages, head: AestheticHead):
        self.clip, self.head = clip, head

    @torch.no_grad()
    def score(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return self.head(self.clip.embed(images))


def load_clip(folder: str | Path, device: str = "cpu") -> ClipImages:
    """CLIP's image encoder.

    Args:
        folder: of the model in transformers' layout; `downloads.require("clip")` gives it.

    Raises:
        OSError: it is not on this machine, or damaged.
    """
    from transformers import CLIPVisionModelWithProjection

    try:
        model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise OSError(f"{folder}: CLIP cannot be loaded ({first_line(error)}). Give the folder of {HUB_ID}.") from None
    return ClipImages(model.to(device).eval().requires_grad_(False))


def load_aesthetic(path: str | Path, clip: ClipImages, sha256: str = "") -> ClipAesthetic:
    """The aesthetic score with the weights of sac+logos+ava1-l14-linearMSE.pth.

    Args:
        clip: ViT-L/14, for which the weights were trained.
        sha256: expected hash of the file; empty for any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_published`; or `clip` is not ViT-L/14.
    """
    tensors, width = read_published(path, sha256), clip.model.config.projection_dim
    head = AestheticHead()
    if width != (fitted := head.layers[0].in_features):
        raise ValueError(f"{path}: trained on CLIP vectors of {fitted} values, but `clip` gives {width}.")
    load_published(head, tensors, path)
    return ClipAesthetic(clip, head.to(clip.model.device))
