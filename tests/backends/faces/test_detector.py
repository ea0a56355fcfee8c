"""Real faces: who it is and where, on random weights; tests/real measures how well, on weights to be fetched."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from mcpkg.backends.faces.detector import (
    Detector,
    LandmarkParser,
    Landmarks,
    convex_hull,
    face_hull,
    load_landmark_parser,
    remove_overlaps,
)
from mcpkg.backends.faces.dlib_net import (
    CENTRE_FILE,
    TEMPLATE,
    DlibEmbedder,
    DlibFaceNet,
    load_dlib_embedder,
    load_dlib_net,
)

LANDMARKS = torch.tensor([TEMPLATE])


def write_face_api(folder, name, arrays):
    """A model in face-api's format: the first array rounded to 8 bits, the others as they are."""
    weights, content = [], b""
    for i, (key, array) in enumerate(arrays.items()):
        entry = {"name": key, "shape": list(array.shape), "dtype": "float32"}
        values = array.numpy().astype("<f4")
        if i == 0:
            low, scale = float(values.min()), float(np.ptp(values)) / 255
            entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": low}
            values = ((values - low) / scale).round().astype("uint8")
        weights.append(entry)
        content += values.tobytes()
    (folder / f"{name}.bin").write_bytes(content)
    manifest = [{"paths": [f"{name}.bin"], "weights": weights}]
    (folder / f"{name}_model-weights_manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def dlib_folder(tmp_path, generator):
    """Random weights under face-api's names: the layers of dlib's network, in its own layout."""

    def conv(name, inputs, outputs, size):
        shapes = {"conv/filters": (size, size, inputs, outputs), "conv/bias": (outputs,)}
        shapes |= {"scale/weights": (outputs,), "scale/biases": (outputs,)}
        return {f"{name}/{key}": 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}

    names = ["conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3", "conv128_down",
             "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2", "conv256_down_out"]  # fmt: skip
    arrays, inputs = conv("conv32_down", 3, 32, 7), 32
    for name in names:
        outputs = int(name.removeprefix("conv").split("_")[0])
        arrays |= conv(f"{name}/conv1", inputs, outputs, 3) | conv(f"{name}/conv2", outputs, outputs, 3)
        inputs = outputs
    arrays["fc"] = torch.randn(256, 128, generator=generator)
    write_face_api(tmp_path, "face_recognition", arrays)
    return tmp_path, arrays


@pytest.mark.slow
def test_every_array_reaches_its_layer(dlib_folder):
    folder, arrays = dlib_folder
    net = load_dlib_net(folder)
    assert sum(p.numel() for p in net.parameters()) == sum(array.numel() for array in arrays.values())
    assert torch.equal(net.head.weight, arrays["fc"].T)
    filters = arrays["conv128_1/conv2/conv/filters"]  # rows, columns, inputs, outputs
    assert torch.equal(net.blocks[8].conv2.conv.weight, filters.permute(3, 2, 0, 1))
    rounded, exact = net.stem.conv.weight, arrays["conv32_down/conv/filters"].permute(3, 2, 0, 1)
    assert (rounded - exact).abs().max() <= 0.51 * (exact.max() - exact.min()) / 255


def test_weights_that_are_cut_short_are_refused(dlib_folder):
    folder, _ = dlib_folder
    path = folder / "face_recognition.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="fc: the file of weights ends before this array"):
        load_dlib_net(folder)


def test_missing_weights_name_what_to_unpack(tmp_path):
    for load in (load_dlib_net, load_landmark_parser):
        with pytest.raises(FileNotFoundError, match="Unpack the folder model of @vladmandic/face-api there"):
            load(tmp_path)


@pytest.mark.slow
def test_another_model_in_the_folder_is_refused(dlib_folder):
    folder, arrays = dlib_folder
    write_face_api(folder, "face_recognition", {name: array for name, array in arrays.items() if name != "fc"})
    with pytest.raises(ValueError, match="holds another model than expected .'fc'.. Copy the folder again"):
        load_dlib_net(folder)


def test_detector_and_landmarks_are_read_as_written(tmp_path, generator):
    def written(path, shape):
        return {path: 0.1 * torch.randn(shape, generator=generator)}

    def separable(path, inputs, outputs):
        arrays = written(f"{path}/depthwise_filter", (3, 3, inputs, 1)) | written(f"{path}/bias", (outputs,))
        return arrays | written(f"{path}/pointwise_filter", (1, 1, inputs, outputs))

    detector = written("conv0/filters", (3, 3, 3, 16)) | written("conv0/bias", (16,))
    for i, (a, b) in enumerate(((16, 32), (32, 64), (64, 128), (128, 256), (256, 512)), start=1):
        detector |= separable(f"conv{i}", a, b)
    detector |= written("conv8/filters", (1, 1, 512, 25)) | written("conv8/bias", (25,))
    landmarks = written("dense0/conv0/filters", (3, 3, 3, 32)) | written("dense0/conv0/bias", (32,))
    for level, (a, b) in enumerate(((3, 32), (32, 64), (64, 128), (128, 256))):
        for i in range(4) if level else range(1, 4):
            landmarks |= separable(f"dense{level}/conv{i}", a if i == 0 else b, b)
    landmarks |= written("fc/weights", (256, 136)) | written("fc/bias", (136,))
    write_face_api(tmp_path, "tiny_face_detector", detector)
    write_face_api(tmp_path, "face_landmark_68", landmarks)
    parser = load_landmark_parser(tmp_path)
    depthwise = detector["conv2/depthwise_filter"]  # rows, columns, inputs, one
    assert torch.equal(parser.detector.rest[1].depthwise.weight, depthwise.permute(2, 3, 0, 1))
    pointwise = landmarks["dense3/conv1/pointwise_filter"]  # one, one, inputs, outputs
    assert torch.equal(parser.landmarks.levels[3][1].pointwise.weight, pointwise.permute(3, 2, 0, 1))


def test_a_detection_is_a_box_around_its_cell():
    """All weights zero but the biases of the head: every cell has the same five boxes."""
    detector = Detector().requires_grad_(False)
    for parameter in detector.parameters():
        parameter.zero_()
    detector.head.bias[4] = 2.0  # score of the first prototype, 1.603231 x 2.094468 cells
    scores, boxes = detector(torch.rand(1, 3, 416, 416))
    assert scores.shape == (1, 5 * 13 * 13) and boxes.shape == (1, 5 * 13 * 13, 4)
    assert scores[0, 0] == torch.tensor(2.0).sigmoid() and scores[0, 13 * 13] == 0.5
    # The second cell of the first row: its middle is at 1.5, 0.5 of 13 cells.
    expected = torch.tensor([1.5 - 1.603231 / 2, 0.5 - 2.094468 / 2, 1.5 + 1.603231 / 2, 0.5 + 2.094468 / 2]) / 13
    assert torch.allclose(boxes[0, 1], expected, atol=1e-6)


def test_the_embedding_is_a_unit_vector_with_a_gradient(generator):
    torch.manual_seed(0)
    embedder = DlibEmbedder(DlibFaceNet().eval())
    images = torch.rand(2, 3, 200, 200, generator=generator).requires_grad_()
    vectors = embedder.embed(images, LANDMARKS.repeat(2, 1, 1))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
    vectors[:, 0].sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in images.grad)


def test_seen_from_their_mean_faces_point_in_all_directions(generator):
    torch.manual_seed(0)
    embedder, where = DlibEmbedder(DlibFaceNet().eval()), LANDMARKS.repeat(4, 1, 1)
    images = torch.rand(4, 3, 150, 150, generator=generator)
    narrow = embedder.embed(images, where)
    wide = DlibEmbedder(embedder.net, embedder.describe(images, where).mean(dim=0)).embed(images, where)
    assert (narrow @ narrow.T).min() > 0.5
    # n unit vectors about their own mean: the cosines of different ones are about -1 / (n - 1)
    assert ((wide @ wide.T).sum() - 4) / 12 < 0


@pytest.mark.slow
def test_the_published_network_is_loaded_with_the_centre_of_the_package(dlib_folder):
    folder, _ = dlib_folder
    kept, vectors = load_file(CENTRE_FILE), torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    cosines = functional.cosine_similarity((vectors - kept["centre"]) @ kept["whitening"], kept["whitening"][:1])
    unit = load_dlib_embedder(folder).unit(vectors)
    assert torch.allclose(unit @ functional.normalize(kept["whitening"][0], dim=0), cosines, atol=1e-5)


def test_the_best_of_overlapping_boxes_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.1, 0.0, 0.6, 0.5], [0.6, 0.6, 0.9, 0.9], [0.0, 0.6, 0.2, 0.9]])
    # The first two share 0.4 x 0.5 of 2 x 0.25 - 0.2: 0.67. The last has a low score.
    assert remove_overlaps(torch.tensor([0.8, 0.9, 0.7, 0.4]), boxes).tolist() == boxes[[1, 2]].tolist()


def test_the_hull_leaves_out_what_is_inside():
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert sorted(convex_hull([*corners, [0.5, 0.5], [0.5, 0], [0, 0]])) == sorted(map(tuple, corners))


def test_the_face_reaches_from_the_chin_to_above_the_brows():
    # Jaw: half a circle of radius 0.3 about (0.5, 0.5), open above; brows at y 0.4; nose tip in the middle.
    angles = torch.linspace(torch.pi, 0, 17)
    points = torch.full((68, 2), 0.5)
    points[:17] = torch.stack((0.5 + 0.3 * angles.cos(), 0.5 + 0.3 * angles.sin()), dim=1)
    points[17:27] = torch.stack((torch.linspace(0.3, 0.7, 10), torch.full((10,), 0.4)), dim=1)
    mask = face_hull(points, 100)[0]
    # The forehead ends half of 0.5 - 0.4 above the brows: at 0.35.
    assert mask[78, 50] == 1 and mask[82, 50] == 0  # the chin is at 0.8
    assert mask[37, 50] == 1 and mask[33, 50] == 0
    assert mask[60, 50] == 1 and mask[60, 85] == 0


class OnlySmallFaces(nn.Module):
    """Detects a face only in the image with a border at 320 px, then in all of it."""

    def __init__(self):
        super().__init__()
        self.looks = []

    def forward(self, images):
        border_is_grey = bool((images[0, :, :10] == 0.5).all())
        self.looks.append((images.shape[-1], border_is_grey))
        score = 0.9 if self.looks[-1] == (320, True) else 0.1
        return torch.tensor([[score]]), torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])


def test_a_tight_image_is_searched_with_space_around_it(generator):
    detector, points = OnlySmallFaces(), torch.rand(1, 68, 2, generator=generator)
    landmarks = Landmarks()
    landmarks.forward = lambda crops: points
    faces = LandmarkParser(detector, landmarks).parse(torch.rand(1, 3, 64, 64, generator=generator))
    assert detector.looks == [(416, False), (608, False), (320, False), (416, True), (608, True), (320, True)]
    assert faces.count.tolist() == [1]
    # With a border of half its side, the image is the middle half of the searched frame: the box is all of it.
    assert torch.allclose(faces.landmarks[0, 2], points[0, 30], atol=1e-5)


@pytest.mark.slow
def test_no_face_is_no_mask(generator):
    torch.manual_seed(0)
    detector = Detector().requires_grad_(False)
    nn.init.constant_(detector.head.bias, -20.0)
    faces = LandmarkParser(detector, Landmarks().requires_grad_(False)).parse(
        torch.rand(2, 3, 64, 64, generator=generator)
    )
    assert not faces.found.any() and faces.face_mask.sum() == 0
    assert torch.allclose(faces.parts.sum(dim=1), torch.ones(2, 64, 64))
