"""Identity embedder by insightface's recognition networks, for scores only: ONNX gives no gradient."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.method.face_alignment import ARCFACE_TEMPLATE, align_faces
from mcpkg.util.errors import first_line, notify
from mcpkg.util.optional import import_optional

LICENCE = "insightface's model packs are for non-commercial research only (github.com/deepinsight/insightface)"
NO_GRADIENT = (
    "insightface's networks are ONNX and give no gradient. Score with them; use dlib's network or ArcFace in torch for "
    "the identity loss."
)
CROP_PX = 112
RECOGNITION = ("w600k_*.onnx", "glintr*.onnx")
"""Names of the recognition network's file in the packs."""
PACKS = Path("~/.insightface/models")


class InsightFaceScorer:
    """`FaceEmbedder` of a pack's recognition network, on faces aligned by our landmarks; it cannot be trained with."""

    def __init__(self, model):
        """Args: model: insightface's `ArcFaceONNX`, or an object with the same `forward`."""
        self.model = model

    def embed(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b d"]:
        """Raises: ValueError: the images or landmarks require a gradient."""
        if torch.is_grad_enabled() and (images.requires_grad or landmarks.requires_grad):
            raise ValueError(NO_GRADIENT)
        crops = align_faces(images, landmarks, ARCFACE_TEMPLATE, CROP_PX, fit="crop")
        crops = (crops.clamp(0, 1) * 255).round().cpu().numpy()
        # one by one, because some packs have a fixed batch size of 1
        vectors = np.concatenate([self.model.forward(crop[None]) for crop in crops])
        return functional.normalize(torch.from_numpy(vectors).float().to(images.device), dim=1)


def load_insightface(pack: str | Path = "buffalo_l", download: bool = False) -> InsightFaceScorer:
    """The scorer with a pack's recognition network; the pack's other networks are not run.

    Args:
        pack: name of a pack in ~/.insightface/models, or the folder of one.
        download: download a missing pack, after its licence was shown.

    Raises:
        FileNotFoundError: no such pack, or no recognition network in it.
        ConnectionError: it cannot be downloaded.
        MissingPackage: insightface or onnxruntime is missing.
    """
    folder = Path(pack) if Path(pack).is_dir() else PACKS.expanduser() / pack
    if not folder.is_dir() and download:
        _download(str(pack))
    path = find_recognition(folder)
    arcface = import_optional("insightface.model_zoo.arcface_onnx", "face")
    return InsightFaceScorer(arcface.ArcFaceONNX(model_file=str(path)))


def find_recognition(folder: Path) -> Path:
    """The recognition network's file, in the folder or a folder within it: some packs unpack into a nested one.

    Raises:
        FileNotFoundError: there is none; the message names where to get it, and the licence.
    """
    found = [path for pattern in RECOGNITION for path in sorted(folder.rglob(pattern))]
    if not found:
        problem = f"no recognition network ({' or '.join(RECOGNITION)}) in it" if folder.is_dir() else "no such folder"
        url = f"https://github.com/deepinsight/insightface/releases/download/v0.7/{folder.name}.zip"
        raise FileNotFoundError(f"{folder}: {problem}. Unpack {url} there. Note that {LICENCE}.")
    return found[0]


def _download(pack: str) -> None:
    notify(f"downloading {pack}: {LICENCE}.")
    storage = import_optional("insightface.utils.storage", "face")
    try:
        storage.ensure_available("models", pack)
    except Exception as error:  # of requests, urllib or zipfile, depending on where it failed
        reason = first_line(error)[:200]
        raise ConnectionError(f"insightface's {pack}: cannot be downloaded ({reason}). Unpack it by hand.") from None
