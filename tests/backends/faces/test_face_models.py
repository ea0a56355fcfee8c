"""Face models of other packages behind our interfaces, with stand-ins for their networks."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mcpkg.backends.faces.arcface import ArcFaceEmbedder, load_arcface
from mcpkg.backends.faces.insight import InsightFaceScorer, find_recognition, load_insightface
from mcpkg.backends.faces.parsing import CLASSES, PARTS, PartsParser, load_parts_parser
from mcpkg.method.face_alignment import ARCFACE_TEMPLATE, FFHQ_TEMPLATE, align_faces, place_back
from mcpkg.method.interfaces import FaceEmbedder, FaceParser
from mcpkg.util.errors import MissingPackage, Notice, describe_error
from mcpkg.util.files import file_sha256
from mcpkg.util.optional import import_optional
from mcpkg.util.safetensors_io import read_published
from tests.helpers.tiny_backend import DiscParser

ALIGNED = torch.tensor([ARCFACE_TEMPLATE])


class Mean(nn.Module):
    """Means of the channels of a crop, which it keeps."""

    def forward(self, crops):
        self.crops = crops
        return crops.mean(dim=(2, 3))


# --- ArcFace ---


def test_arcface_reads_bgr_from_minus_one_to_one():
    images = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    net = Mean()
    vector = ArcFaceEmbedder(net).embed(images, ALIGNED)
    assert net.crops.shape == (1, 3, 112, 112)
    # Blue, green, red are -1, 0, 1; of unit length that is (-1, 0, 1) / sqrt 2.
    assert torch.allclose(vector[0], torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5, atol=1e-6)


def test_arcface_passes_the_gradient_on_to_the_face(generator):
    images = torch.rand(1, 3, 200, 200, generator=generator).requires_grad_()
    embedder = ArcFaceEmbedder(Mean())
    embedder.embed(images, 0.25 + 0.5 * ALIGNED)[0, 0].backward()  # the crop is the middle of the frame
    strength = images.grad[0].abs().sum(dim=0)
    assert strength[60:140, 60:140].min() > 0 and strength[:40].sum() == 0
    assert isinstance(embedder, FaceEmbedder)


def test_arcface_weights_are_checked_before_they_are_read(tmp_path):
    path = tmp_path / "recognition_arcface_ir_se50.pth"
    with pytest.raises(FileNotFoundError, match=f"{path}: no such file"):
        load_arcface(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not the published file"):
        load_arcface(path, sha256="a" * 64)


def test_published_weights_are_tensors_alone_and_as_expected(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(2)}, path)
    assert torch.equal(read_published(path, file_sha256(path))["a"], torch.ones(2))
    torch.save({"a": print}, path)
    with pytest.raises(ValueError, match="x.pth: damaged, or holds more than tensors"):
        read_published(path)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="x.pth: damaged, or holds more than tensors"):
        read_published(path)
    torch.save(torch.ones(2), path)
    with pytest.raises(ValueError, match="holds no named weights"):
        read_published(path)


# --- Packages that are not there ---


def test_a_missing_package_is_one_line_that_names_what_to_install(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    path, message = (
        tmp_path / "x.pth",
        "facexlib: not installed. pip install 'mcpkg[restore]' in a separate environment",
    )
    for load in (lambda: load_arcface(path), lambda: load_parts_parser(path, DiscParser())):
        with pytest.raises(MissingPackage) as caught:
            load()
        assert describe_error(caught.value).startswith(message)


def test_an_incompatible_torchvision_is_distinguished_from_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "misfit.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackage, match="misfit: cannot be imported .operator torchvision::nms does not exist."):
        import_optional("misfit", "restore")


# --- insightface ---


class Onnx:
    """Stands for insightface's ArcFaceONNX."""

    def forward(self, batch):
        self.given = batch
        return batch.mean(axis=(2, 3)) + np.array([[0, 0, 0.5]], dtype="float32")


def test_a_scorer_gives_unit_vectors_of_crops_in_0_to_255():
    images = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(2, 3, 112, 112)
    model = Onnx()
    vectors = InsightFaceScorer(model).embed(images, ALIGNED.expand(2, -1, -1))
    assert model.given.shape == (1, 3, 112, 112) and model.given[0, :, 50, 50].tolist() == [255, 128, 0]  # red first
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2)) and isinstance(InsightFaceScorer(model), FaceEmbedder)


def test_a_scorer_refuses_to_be_trained_against():
    images = torch.zeros(1, 3, 112, 112, requires_grad=True)
    scorer = InsightFaceScorer(Onnx())
    with pytest.raises(ValueError, match="ONNX and give no gradient. Score with them; use dlib's network"):
        scorer.embed(images, ALIGNED)
    with torch.no_grad():
        assert scorer.embed(images, ALIGNED).shape == (1, 3)


def test_a_missing_or_empty_pack_is_one_line_with_its_licence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder. Unpack http.*nowhere.zip.*non-commercial"):
        load_insightface(tmp_path / "nowhere")
    (tmp_path / "buffalo_l").mkdir()
    with pytest.raises(FileNotFoundError, match="buffalo_l: no recognition network .*Unpack.*non-commercial research"):
        load_insightface(tmp_path / "buffalo_l")


def test_a_pack_that_was_unpacked_into_a_nested_folder_is_found(tmp_path):
    inner = tmp_path / "antelopev2" / "antelopev2"
    inner.mkdir(parents=True)
    (inner / "scrfd_10g_bnkps.onnx").touch()
    (inner / "glintr100.onnx").touch()
    assert find_recognition(tmp_path / "antelopev2") == inner / "glintr100.onnx"


def test_the_licence_is_shown_before_the_download_which_ends_in_one_line_offline(monkeypatch, tmp_path):
    events = []

    def unreachable(*_):
        events.append("download")
        raise OSError("Name or service not known\nand much more")

    storage = ModuleType("insightface.utils.storage")
    storage.ensure_available = unreachable
    for name in ("insightface", "insightface.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "insightface.utils.storage", storage)
    monkeypatch.setattr("mcpkg.backends.faces.insight.PACKS", tmp_path)
    monkeypatch.setattr("mcpkg.backends.faces.insight.notify", events.append)
    with pytest.raises(ConnectionError, match=r"buffalo_l: cannot be downloaded \(Name or service not known\)"):
        load_insightface(download=True)
    assert "non-commercial" in events[0] and events[1] == "download"


# --- Parts of the face ---


class Sees(nn.Module):
    """Sure of one class on the left half of the crop, of another on the right."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, crops):
        logits = torch.zeros(len(crops), 19, 512, 512)
        logits[:, self.left, :, :256] = logits[:, self.right, :, 256:] = 20
        return logits, crops


def test_every_class_of_both_networks_is_a_part():
    assert {len(classes) for classes in CLASSES.values()} == {19}
    assert all(set(classes) == set(PARTS) for classes in CLASSES.values())
    assert [CLASSES["bisenet"][i] for i in (1, 10, 17)] == ["skin", "nose", "hair"]
    assert [CLASSES["parsenet"][i] for i in (1, 2, 13)] == ["skin", "nose", "hair"]


def test_chosen_parts_are_the_face(generator):
    images = torch.rand(2, 3, 64, 64, generator=generator)
    skin, ears = CLASSES["bisenet"].index("skin"), CLASSES["bisenet"].index("ears")
    net, finder = Sees(skin, ears), DiscParser()
    plain = PartsParser(net, "bisenet", finder).parse(images)
    both = PartsParser(net, "bisenet", finder, ("skin", "ears")).parse(images)
    assert torch.allclose(plain.parts.sum(dim=1), torch.ones(2, 64, 64), atol=1e-5)
    assert torch.equal(plain.landmarks, finder.parse(images).landmarks)
    # The landmarks of the disc have their middle at x = 0.5; left of it is skin, right of it ears.
    row = plain.face_mask[0, 0, 30]
    assert row[20:30].min() > 0.99 and row[34:44].max() < 0.01
    assert both.face_mask[0, 0, 30, 20:44].min() > 0.98
    assert isinstance(PartsParser(net, "bisenet", finder), FaceParser)


def test_the_hull_stays_where_the_parse_finds_no_face_and_a_notice_states_it(generator):
    images = torch.rand(1, 3, 64, 64, generator=generator)
    with pytest.warns(Notice, match="parsenet finds no face where the landmarks are; their hull is the mask there"):
        faces = PartsParser(Sees(0, 18), "parsenet", DiscParser()).parse(images)  # background and clothes
    assert torch.equal(faces.face_mask, DiscParser().parse(images).face_mask)
    assert torch.allclose(faces.parts.sum(dim=1), torch.ones(1, 64, 64))


def test_a_picture_without_a_face_has_an_empty_mask():
    empty = Sees(0, 0)
    faces = PartsParser(empty, "parsenet", NoFace()).parse(torch.zeros(1, 3, 64, 64))
    assert not faces.found.any() and faces.face_mask.sum() == 0 and (faces.parts[:, 0] == 1).all()


class NoFace(DiscParser):
    def parse(self, images):
        faces = super().parse(images)
        faces.face_mask.zero_()
        faces.found.zero_()
        return faces


def test_unknown_parts_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"parts \['moustache'\] are not known. Choose of: skin, brows"):
        PartsParser(Sees(0, 0), "parsenet", DiscParser(), ("skin", "moustache"))
    with pytest.raises(ValueError, match="no parts given"):
        PartsParser(Sees(0, 0), "parsenet", DiscParser(), ())
    with pytest.raises(ValueError, match="face parser 'segnet' is not known"):
        PartsParser(Sees(0, 0), "segnet", DiscParser())


def test_a_crop_goes_back_to_where_it_came_from():
    at = torch.linspace(0, 6, 96)
    images = (torch.sin(at[:, None]) * torch.cos(at)).expand(1, 3, 96, 96) / 2 + 0.5  # smooth, to survive resampling
    turn = torch.tensor([[0.8, -0.3], [0.3, 0.8]])
    landmarks = (torch.tensor([FFHQ_TEMPLATE]) - 0.5) @ turn.T * 0.5 + 0.5
    back = place_back(align_faces(images, landmarks, FFHQ_TEMPLATE, 128), landmarks, FFHQ_TEMPLATE, 96)
    inside = place_back(torch.ones(1, 1, 128, 128), landmarks, FFHQ_TEMPLATE, 96) == 1
    assert 0.1 < inside.float().mean() < 0.3  # the crop's side is about 0.85 / 2 of the frame: 0.18 of its area
    assert (back - images).abs()[inside.expand(1, 3, -1, -1)].max() < 0.01
    assert back[..., 0, 0].abs().max() == 0
