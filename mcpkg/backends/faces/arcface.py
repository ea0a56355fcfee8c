"""Identity embedder by ArcFace (Deng et al. 2019), with gradient: facexlib's network and weights."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mcpkg.method.face_alignment import ARCFACE_TEMPLATE, align_faces
from mcpkg.util.optional import import_optional
from mcpkg.util.safetensors_io import load_published, read_published

CROP_PX = 112


class ArcFaceEmbedder:
    """`FaceEmbedder`, differentiable; strangers have a cosine of about 0.

    Note:
        The network reads the channels in the order BGR: the code that trained these weights
        (TreB1eN/InsightFace_Pytorch) decoded its images with OpenCV and stored them as if they were RGB.
    """

    def __init__(self, net: nn.Module):
        self.net = net

    def embed(self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 5 2"]) -> Float[Tensor, "b d"]:
        crops = align_faces(images, landmarks, ARCFACE_TEMPLATE, CROP_PX, fit="crop")
        return functional.normalize(self.net(crops.flip(1) * 2 - 1), dim=1)


def load_arcface(path: str | Path, sha256: str = "") -> ArcFaceEmbedder:
    """The embedder with the weights of recognition_arcface_ir_se50.pth, or the same as safetensors.

    Args:
        sha256: expected hash of the file; empty for any.

    Raises:
        FileNotFoundError, ValueError: see `read_published`.
        MissingPackage: facexlib or its torchvision is missing.

    Note:
        facexlib's own loader is not used, because it always puts the network on a GPU.
    """
    tensors = read_published(path, sha256)
    net = build_arcface()
    load_published(net, tensors, path)
    return ArcFaceEmbedder(net)


def build_arcface() -> nn.Module:
    """The network without its weights: crops of 112 px, BGR in [-1, 1], to 512 values."""
    return import_optional("facexlib.recognition.arcface_arch", "restore").Backbone(50, 0.6, "ir_se").eval()
