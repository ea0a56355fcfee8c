"""Faces redrawn by GFPGAN (Wang et al. 2021), through the gfpgan package."""

from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.backends.restoration.alias import old_torchvision
from mcpkg.util.images import to_8_bit
from mcpkg.util.optional import import_optional

HELPERS = ("detection_Resnet50_Final.pth", "parsing_parsenet.pth")
"""Further weights that the package needs, to find the face and to paste it back."""


class Gfpgan:
    """`Restorer` of the faces in images; the size and everything but the face stay as they are."""

    def __init__(self, enhancer):
        """Args: enhancer: a `gfpgan.GFPGANer` with an upscale of 1, or an object with the same `enhance`."""
        self.enhancer = enhancer

    @torch.no_grad()
    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in which the package finds no face come back unchanged."""
        restored = [self.enhancer.enhance(image[..., ::-1].copy())[2][..., ::-1] for image in to_8_bit(images)]  # BGR
        return torch.from_numpy(np.stack(restored)).permute(0, 3, 1, 2).to(images) / 255


def load_gfpgan(path: str | Path, helpers: str | Path, device: str = "cpu") -> Gfpgan:
    """The restorer with weights on disk; nothing is downloaded.

    Args:
        path: GFPGANv1.4.pth, or 1.3.
        helpers: folder with the files in `HELPERS`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are damaged, or those of another network.
        MissingPackage: gfpgan or one of its requirements is missing.

    Note:
        By itself the package looks for the further weights in a folder below the working directory, and downloads those
        that are missing.
    """
    files = (Path(path), *(Path(helpers) / name for name in HELPERS))
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file. GFPGAN needs its weights, {' and '.join(HELPERS)}.")
    with old_torchvision():
        package = import_optional("gfpgan.utils", "restore")
    helper = package.FaceRestoreHelper

    def elsewhere(*args, model_rootpath: str, **options):
        return helper(*args, model_rootpath=str(helpers), **options)

    read = partial(torch.load, map_location=device, weights_only=True)
    with mock.patch.object(package, "FaceRestoreHelper", elsewhere), mock.patch.object(package.torch, "load", read):
        try:
            enhancer = package.GFPGANer(str(path), upscale=1, device=torch.device(device))
        except (RuntimeError, KeyError, EOFError, ValueError) as error:
            first = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: GFPGAN cannot be loaded from it and {helpers} ({first}).") from None
    return Gfpgan(enhancer)
