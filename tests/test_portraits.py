import numpy as np
import pytest
import torch
from PIL import Image

from mcpkg.portraits import load_portraits, read_image, save_image
from tests.tiny_backend import tiny_backend


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


def picture(width, height, mode="RGB"):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


def test_folders_are_read_in_order_of_the_names(backend, tmp_path):
    for name in ("b.jpg", "a.png", "c.webp"):
        picture(40, 40).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "masks").mkdir()
    portraits = load_portraits(tmp_path, backend)
    assert [path.name for path in portraits.paths] == ["a.png", "b.jpg", "c.webp"]
    assert portraits.images.shape == (3, 3, 32, 32)
    assert len(portraits) == len(portraits.faces) == 3
    assert len(portraits[:2].faces) == 2


def test_photos_are_turned_upright(tmp_path):
    image = picture(40, 40)
    exif = image.getexif()
    exif[0x0112] = 3  # taken upside down: turned by 180 degrees, left and right change sides
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png", 8)
    assert pixels[:, 4, 1].round().tolist() == [0, 0, 1]


def test_transparent_means_white(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 1).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA"])
def test_every_common_mode_is_read(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    picture(16, 16, mode).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}", 8).shape == (3, 8, 8)


def test_tall_photos_keep_their_upper_part(tmp_path):
    image = Image.new("RGB", (10, 30))
    image.paste((255, 255, 255), (0, 0, 10, 10))  # a white head on top
    image.save(tmp_path / "a.png")
    # 20 rows are cut away: 30 % of them above, so that rows 6 to 16 remain, 4 of 10 white.
    assert read_image(tmp_path / "a.png", 10)[0, :, 5].tolist() == [1] * 4 + [0] * 6


def test_mask_files_win_over_the_parser(backend, tmp_path):
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
    mask = torch.zeros(3, 32, 32)
    mask[:, :, :5] = 1
    save_image(mask, tmp_path / "masks" / "a.png")
    faces = load_portraits(tmp_path, backend).faces
    assert torch.equal(faces.face_mask[0, 0], mask[0])
    parsed = load_portraits(tmp_path, backend, mask_files=False).faces
    assert torch.equal(faces.face_mask[1], parsed.face_mask[1])
    assert not torch.equal(faces.face_mask[0], parsed.face_mask[0])


def test_saved_images_are_read_back(tmp_path):
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    save_image(image, tmp_path / "deep" / "a.png")
    assert torch.allclose(read_image(tmp_path / "deep" / "a.png", 12), image, atol=0.5 / 255 + 1e-6)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_bad_folders_and_files_are_named(backend, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_portraits(tmp_path / "nowhere", backend)
    with pytest.raises(FileNotFoundError, match="no image found"):
        load_portraits(tmp_path, backend)
    (tmp_path / "torn.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="torn.png: cannot be read"):
        load_portraits(tmp_path, backend)


@pytest.mark.parametrize("colour, message", [("black", "no face found"), ("white", "2 faces found")])
def test_exactly_one_face_is_wanted(backend, tmp_path, colour, message):
    picture(32, 32).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), colour).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=f"b.png: {message}"):
        load_portraits(tmp_path, backend)


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="8 bits"):
        read_image(tmp_path / "a.png", 8)


@pytest.mark.parametrize("side", [12, 20])
def test_huge_pictures_are_refused(monkeypatch, tmp_path, side):
    picture(side, side).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above it and fails above twice as many
    with pytest.raises(ValueError, match="a.png: cannot be read as an image .*decompression bomb"):
        read_image(tmp_path / "a.png", 8)


def test_an_empty_mask_file_is_named(backend, tmp_path):
    picture(32, 32).save(tmp_path / "a.png")
    save_image(torch.zeros(3, 32, 32), tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="masks/a.png: the mask is empty"):
        load_portraits(tmp_path, backend)
