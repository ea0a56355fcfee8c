import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mcpkg.data.image_files import open_picture, read_image
from mcpkg.data.image_folders import find_images
from mcpkg.util.images import save_image


def picture(width, height, mode="RGB"):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


def png(width, height, depth=8, colour=2):
    """A PNG of that size in its header, and hardly any pixels: bytes."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, colour, 0, 0, 0))
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_photos_are_turned_upright(tmp_path):
    image = picture(40, 20)
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned to the right by a quarter: what was left is on top
    for name in ("a.png", "b.jpg", "c.webp"):
        image.save(tmp_path / name, exif=exif)
        upright = open_picture(tmp_path / name)
        assert upright.rgb.size == (20, 40)
        pixels = np.asarray(upright.rgb).astype(int)
        assert pixels[5, 10, 0] > 200 and pixels[35, 10, 2] > 200


def test_transparency_becomes_white_unless_the_colours_beneath_are_requested(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 1).all()
    assert open_picture(tmp_path / "a.png", background=None).rgb.getpixel((0, 0)) == (255, 0, 0)
    assert open_picture(tmp_path / "a.png").alpha.getextrema() == (0, 0)


def test_an_opaque_alpha_channel_is_none(tmp_path):
    picture(16, 16, "RGBA").save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").alpha is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_common_mode_is_read(tmp_path, mode):
    picture(16, 16, mode).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", 16)
    assert pixels.shape == (3, 16, 16)
    if mode in ("P", "RGBA"):
        assert pixels[:, 8, 2].tolist() == [1, 0, 0]


def test_tall_photos_keep_their_upper_part(tmp_path):
    image = Image.new("RGB", (20, 60))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # a white head on top
    image.save(tmp_path / "a.png")
    # 40 rows are cut away: 30 % of them above, so that rows 12 to 32 remain, 8 of 20 white.
    assert read_image(tmp_path / "a.png", 20)[0, :, 5].tolist() == [1] * 8 + [0] * 12


def test_a_phones_second_view_does_not_make_a_photo_animated(tmp_path):
    picture(16, 16).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture(16, 16)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert open_picture(tmp_path / "a.jpg").rgb.size == (16, 16)


def test_damaged_exif_does_no_harm(tmp_path):
    picture(16, 16).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    with warnings.catch_warnings(action="error"):
        assert open_picture(tmp_path / "a.jpg").rgb.size == (16, 16)


def write_bad(folder, kind):
    """One file that must not be taken for a photo."""
    path = folder / "bad.png"
    if kind == "no image":
        path.write_bytes(b"not a picture")
    elif kind == "empty":
        path.touch()
    elif kind == "other format":
        picture(32, 32).save(path, format="GIF")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "1x1":
        picture(1, 1).save(path)
    elif kind == "wide":
        path.write_bytes(png(30_000, 20_000))
    elif kind == "wide and flat":
        path.write_bytes(png(30_000, 100))
    elif kind == "many pixels":
        path.write_bytes(png(15_000, 15_000))
    elif kind == "strip":
        picture(500, 100).save(path)
    elif kind == "16-bit grey":
        Image.fromarray(np.zeros((32, 32), np.uint16)).save(path)
    elif kind == "16-bit colour":
        path.write_bytes(png(32, 32, depth=16))
    elif kind == "CMYK":
        picture(32, 32, "CMYK").save(path, format="JPEG")
    elif kind == "animated":
        picture(32, 32).save(path, save_all=True, append_images=[Image.new("RGB", (32, 32))])
    elif kind == "animated WebP":
        picture(32, 32).save(path, format="WEBP", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    return path


BAD = {
    "no image": "cannot be read as an image .not PNG, JPEG or WebP",
    "empty": "cannot be read as an image",
    "other format": "cannot be read as an image .not PNG, JPEG or WebP",
    "truncated": "cannot be read as an image",
    "1x1": "1 x 1 pixels; too small for a face",
    "wide": "million pixels. Save a smaller copy",
    "wide and flat": "30000 x 100 pixels; at most 20000 a side",
    "many pixels": "million pixels. Save a smaller copy",
    "strip": "500 x 100 pixels is a strip",
    "16-bit grey": "16 bits per channel. Save it with 8",
    "16-bit colour": "16 bits per channel. Save it with 8",
    "CMYK": "CMYK.*Save it as RGB",
    "animated": "animated, 2 pictures",
    "animated WebP": "animated, 2 pictures",
}


@pytest.mark.parametrize("kind", BAD)
def test_unsuitable_files_raise_with_their_name(tmp_path, kind):
    path = write_bad(tmp_path, kind)
    with pytest.raises(ValueError, match=f"bad.png: .*{BAD[kind]}|bad.png: {BAD[kind]}"):
        open_picture(path)


def test_huge_pictures_raise_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(png(19_000, 4_800))  # 91 million pixels
    with pytest.raises(ValueError, match="a.png: more than 89 million pixels"):
        open_picture(tmp_path / "a.png")


def test_missing_files_keep_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "nowhere.png")


def test_folders_list_visible_pictures_sorted_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp", "._a.png", ".hidden.jpg", "notes.txt", "d.heic"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b.JPG", "c.webp"]


def test_folders_without_enough_pictures_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="amara: no such folder. python -m mcpkg.world.samples renders"):
        find_images(tmp_path / "data_samples" / "amara")
    with pytest.raises(FileNotFoundError, match="no image found"):
        find_images(tmp_path)
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(FileNotFoundError, match="no image found. IMG_1.HEIC cannot be read. Put PNG"):
        find_images(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="a.png is the only image. Add others, to have 2 or more"):
        find_images(tmp_path)
    with pytest.raises(NotADirectoryError, match="a.png: a file"):
        find_images(tmp_path / "a.png")
    assert len(find_images(tmp_path, at_least=1)) == 1


def test_saved_images_are_read_back(tmp_path):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    save_image(image, tmp_path / "deep" / "a.png")
    assert torch.allclose(read_image(tmp_path / "deep" / "a.png", 16), image, atol=0.5 / 255 + 1e-6)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]
