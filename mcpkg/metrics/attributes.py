"""What the built-in style reader sees of a look, attribute by attribute."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mcpkg.method.interfaces import Backend
from mcpkg.world.world import ATTRIBUTES


@torch.no_grad()
def read_attributes(
    backend: Backend, images: Float[Tensor, "b 3 h w"], keep_mask: Float[Tensor, "b 1 h w"]
) -> Int64[Tensor, "b a"]:
    """What the style reader sees, in the columns of `Looks.codes`."""
    logits = backend.style_reader(images, keep_mask)
    return torch.stack([logits[attribute].argmax(dim=1) for attribute in ATTRIBUTES], dim=1)
