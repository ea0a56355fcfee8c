"""Malformed pictures, masks, folders and PNG text: refused in one line that names the file, or read as they are."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcpkg.backends import load_backend
from mcpkg.data.image_files import open_picture
from mcpkg.data.image_folders import find_images
from mcpkg.data.portraits import load_portraits
from mcpkg.inference.generate import Generated
from mcpkg.inference.provenance import read_provenance, save_portraits
from mcpkg.util.safetensors_io import read_published, read_weights
from tests.fuzz.harness import ending, judge
from tests.fuzz.mutations import damaged
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_folders import write_pictures

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]


def photo(side=64):
    """A picture with the smoothness of a photo."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_bytes_of_pictures(tmp_path, name):
    """JPEG and WebP have no checksums: a flipped bit of their pixels is another picture, and is read. PNG has."""
    photo().save(tmp_path / name)
    whole, problems = (tmp_path / name).read_bytes(), []
    ends = []
    for what, data in damaged(whole, flips=60, cuts=15):
        (tmp_path / name).write_bytes(data)
        ends.append(end := ending(lambda: open_picture(tmp_path / name)))
        if end not in ("refused", "accepted") or (end == "accepted" and what.startswith("cut")):
            problems.append(f"{name} {what}: {end}")
    assert not problems, "\n".join(problems)
    inputs = [(f"{name} {i}", lambda: None) for i, end in enumerate(ends) if end == "accepted"]
    judge("bytes of pictures", inputs, lambda _: True)
    judge("bytes of pictures", [(str(i), lambda: find_images(tmp_path / "no")) for i in range(len(ends) - len(inputs))])


def refusals(folder):
    """Name -> what makes a folder of two good pictures unusable."""
    deep = np.zeros((32, 32), np.uint16)

    def mask(picture):
        (folder / "masks").mkdir()
        picture.save(folder / "masks" / "0.png")

    return {
        "a link that leads nowhere": lambda: (folder / "x.png").symlink_to(folder / "nowhere"),
        "a link to itself": lambda: (folder / "x.png").symlink_to(folder / "x.png"),
        "a circle of links": lambda: ((folder / "x.png").symlink_to("y.png"), (folder / "y.png").symlink_to("x.png")),
        "a name that is not UTF-8": lambda: open(os.fsencode(folder) + b"/\xff.png", "wb").write(b"x"),
        "16 bits": lambda: Image.fromarray(deep).save(folder / "x.png"),
        "CMYK": lambda: photo().convert("CMYK").save(folder / "x.jpg"),
        "no picture": lambda: (folder / "x.png").write_bytes(b"GIF89a"),
        "empty": lambda: (folder / "x.png").touch(),
        "no face": lambda: Image.new("RGB", (32, 32)).save(folder / "x.png"),
        "tiny": lambda: photo(8).save(folder / "x.png"),
        "a strip": lambda: photo().resize((640, 64)).save(folder / "x.png"),
        "animated": lambda: photo().save(folder / "x.png", save_all=True, append_images=[photo().rotate(90)]),
        "a mask of 16 bits": lambda: mask(Image.fromarray(deep)),
        "a mask of another size": lambda: mask(Image.new("L", (20, 20), 255)),
        "an empty mask": lambda: mask(Image.new("L", (32, 32))),
        "a full mask": lambda: mask(Image.new("L", (32, 32), 255)),
        "a mask that is no picture": lambda: ((folder / "masks").mkdir(), (folder / "masks" / "0.png").write_text("x")),
        "a mask that leads nowhere": lambda: (
            (folder / "masks").mkdir(), (folder / "masks" / "0.png").symlink_to("nowhere"),
        ),
    }  # fmt: skip


def test_folders_of_pictures(tmp_path):
    backend = tiny_backend()

    def inputs():
        for number, name in enumerate(refusals(tmp_path)):
            folder = write_pictures(tmp_path / str(number))
            refusals(folder)[name]()
            yield name, lambda folder=folder: load_portraits(folder, backend)

    problems = judge("folders of pictures", inputs())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("side", [64, 128, 256])
def test_noise_and_plain_colours_are_no_faces(tmp_path, side):
    """Where the built-in parser decides."""
    backend, rng = load_backend("mini"), np.random.default_rng(side)

    def inputs():
        for number in range(12):
            shape = (side, side) if number % 3 == 0 else (side, side, 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8) if number < 9 else np.full(shape, 80 * (number - 9))
            folder = tmp_path / str(number)
            folder.mkdir()
            for name in ("a.png", "b.png"):
                Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(folder / name)
            yield f"{side} {number}", lambda folder=folder: load_portraits(folder, backend)

    problems = judge("noise", inputs())
    assert not problems, "\n".join(problems)


def test_provenance(tmp_path):
    """Every chunk of a PNG has a checksum; a bit between chunks, or of a chunk's kind, may hide the text or nothing."""
    images = tiny_portraits(tiny_backend(), 1).images
    (path,) = save_portraits(Generated(images, (3,), "a photo", None, {"steps": 2}), tmp_path)
    for what, data in damaged(path.read_bytes(), flips=80, cuts=20):
        path.write_bytes(data)
        end = ending(lambda: read_provenance(path))
        assert end == "refused" or (end == "accepted" and read_provenance(path)["seed"] == 3), what


@pytest.mark.parametrize("read", [read_weights, read_published])
def test_weights(tmp_path, read):
    """Without a digest, a flipped bit of a number cannot be noticed; a damaged header or end is."""
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(4, 4), "b": torch.ones(2)}, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")

    def inputs():
        for what, data in damaged(whole, flips=0, cuts=40):
            yield what, lambda data=data: (path.write_bytes(data), read(path))
        for what, data in damaged(whole[:8], flips=40, cuts=0):
            yield f"length {what}", lambda data=data + whole[8:]: (path.write_bytes(data), read(path))

    problems = judge("weights", inputs())
    assert not problems and header < len(whole), "\n".join(problems)
