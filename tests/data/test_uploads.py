import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mcpkg.data.uploads import MANIFEST, delete_uploads, save_uploads, without_metadata

MARK = b"secretplace"


def picture(kind, orientation=1):
    """16 x 24 pixels, the upper half red, with the marker wherever the format has a place for it."""
    pixels = np.zeros((24, 16, 3), dtype=np.uint8)
    pixels[:12, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, MARK.decode()
    exif.get_ifd(0x8825)[29] = MARK.decode()  # GPSDateStamp
    text = PngImagePlugin.PngInfo()
    text.add_itxt("place", MARK.decode())
    more = {"PNG": {"pnginfo": text}, "JPEG": {"comment": MARK}, "WEBP": {"xmp": MARK}}[kind]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, exif=exif, **more)
    assert MARK in file.getvalue()
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_nothing_but_the_upright_picture_is_kept(kind):
    clean = without_metadata(picture(kind, orientation=3))  # 3: turned by half
    assert MARK not in clean
    image = Image.open(io.BytesIO(clean))
    assert (image.format, image.size, dict(image.getexif())) == (kind, (16, 24), {})
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels[2, 8, 0] < 30 and pixels[21, 8, 0] > 200  # the red half is below now


def test_what_is_no_picture_becomes_an_empty_file():
    assert without_metadata(b"GPS " + MARK) == b""


def test_all_of_ours_are_deleted_and_nothing_else(tmp_path):
    foreign = {name: name.encode() for name in ("photo_07.png", "photo_42.jpg", "notes.txt")}
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    paths = save_uploads([(".png", picture("PNG"))] * 120, tmp_path)
    assert len({path.name for path in paths} - foreign.keys()) == 120
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    paths[3].write_bytes(b"replaced by the user")
    delete_uploads(tmp_path)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == foreign | {paths[3].name: b"replaced by the user"}


def test_without_a_list_nothing_is_deleted(tmp_path):
    (tmp_path / "photo_01.png").write_bytes(b"mine")
    (tmp_path / MANIFEST).write_text("damaged")
    delete_uploads(tmp_path)
    assert (tmp_path / "photo_01.png").read_bytes() == b"mine"
    delete_uploads(tmp_path / "nowhere")
