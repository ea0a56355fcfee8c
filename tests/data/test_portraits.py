import numpy as np
import pytest
import torch
from PIL import Image

from mcpkg.data.portraits import load_portraits
from mcpkg.util.errors import Notice
from mcpkg.util.images import save_image
from tests.data.test_face_crop import RedParser, scene
from tests.data.test_image_files import picture, write_bad
from tests.helpers.tiny_backend import tiny_backend


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


@pytest.fixture
def folder(tmp_path):
    """Two good photos of the backend's own size."""
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
    return tmp_path


def save_mask(path, columns=5, size=(32, 32)):
    """White in the first columns."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, columns, size[1]))
    path.parent.mkdir(exist_ok=True)
    mask.save(path)
    return mask


def test_folders_are_read_sorted_by_name(backend, tmp_path):
    for name in ("b.jpg", "a.png", "c.webp"):
        picture(40, 40).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".a.png").write_text("nor this")
    (tmp_path / "masks").mkdir()
    portraits = load_portraits(tmp_path, backend)
    assert [path.name for path in portraits.paths] == ["a.png", "b.jpg", "c.webp"]
    assert portraits.images.shape == (3, 3, 32, 32)
    assert len(portraits) == len(portraits.faces) == 3
    assert len(portraits[:2].faces) == len(portraits[:2].paths) == 2


def test_every_bad_file_is_named_in_one_error(backend, folder):
    write_bad(folder, "truncated")
    Image.new("RGB", (32, 32), "black").save(folder / "dark.png")
    save_mask(folder / "masks" / "b.png", size=(30, 20))
    with pytest.raises(ValueError) as error:
        load_portraits(folder, backend)
    bad, dark, mask = str(error.value).splitlines()
    assert "bad.png: cannot be read" in bad
    assert "dark.png: no face found. Crop closer to the face or remove the file." in dark
    assert "masks/b.png: the mask is 30 x 20 pixels, its image b.png 32 x 32." in mask


def test_several_faces_give_a_notice(backend, folder):
    Image.new("RGB", (32, 32), "white").save(folder / "c.png")  # the tiny parser sees two there
    with pytest.warns(Notice, match="c.png: several faces; the largest is used"):
        assert len(load_portraits(folder, backend)) == 3


def test_small_faces_and_unread_formats_give_notices(backend, folder):
    picture(20, 16).save(folder / "c.png")  # 16 is half of the 32 that the backend wants, and still enough
    (folder / "d.heic").touch()
    with pytest.warns(Notice, match="d.heic: left out") as notices:
        load_portraits(folder, backend)
    assert len(notices) == 1
    small = tiny_backend()
    small.image_size_px = 64
    (folder / "d.heic").unlink()
    with pytest.warns(Notice, match="c.png: 16 pixels around the face are enlarged to 64"):
        load_portraits(folder, small)


def test_mask_files_replace_the_parsers_masks(backend, folder):
    save_mask(folder / "masks" / "a.png")
    save_mask(folder / "masks" / "b.png", columns=9)
    faces = load_portraits(folder, backend).faces
    assert faces.face_mask[:, 0].sum(dim=(1, 2)).tolist() == [5 * 32, 9 * 32]
    assert faces.face_mask[0, 0, :, :5].all()
    parsed = load_portraits(folder, backend, mask_from="parser").faces
    assert torch.equal(parsed.face_mask, backend.face_parser.parse(torch.rand(2, 3, 32, 32)).face_mask)


def test_masks_can_be_in_another_folder(backend, folder):
    for name in ("a.png", "b.png"):
        save_mask(folder / "mine" / name)
        save_mask(folder / "masks" / name, columns=9)
    assert load_portraits(folder, backend, masks=folder / "mine").faces.face_mask.sum() == 2 * 5 * 32
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_portraits(folder, backend, masks=folder / "nowhere")


def test_unused_and_missing_masks_give_notices(backend, folder):
    save_mask(folder / "masks" / "a.png")
    save_mask(folder / "masks" / "z.png")
    with pytest.warns(Notice) as notices:
        load_portraits(folder, backend)
    messages = " ".join(str(notice.message) for notice in notices)
    assert "masks/z.png: no image of this name, the mask is not used." in messages
    assert "b.png: has no mask file; its mask is the face parser's." in messages


def test_image_and_mask_are_cropped_alike(tmp_path):
    backend = tiny_backend()
    backend.face_parser = RedParser()
    for name in ("a.png", "b.png"):
        picture = scene(320, 320, (100, 100, 40))
        picture.save(tmp_path / name)
        save_image(torch.from_numpy(np.asarray(picture) == (255, 0, 0)).all(dim=2).float().expand(3, -1, -1),
                   tmp_path / "masks" / name)  # fmt: skip
    portraits = load_portraits(tmp_path, backend)
    red = (portraits.images[:, :1] - portraits.images[:, 1:2]).clamp(0, 1)  # about 1 on the face, 0 around it
    assert portraits.faces.face_mask.mean() == pytest.approx(1 / 9, abs=0.01)  # a third of the crop, squared
    assert (red - portraits.faces.face_mask).abs().mean() < 0.02


def test_a_mask_is_upright_as_its_image_is(backend, tmp_path):
    image = picture(32, 24)
    exif = image.getexif()
    exif[0x0112] = 6  # shown as 24 x 32
    for name in ("a", "b"):
        image.save(tmp_path / f"{name}.jpg", exif=exif)
        save_mask(tmp_path / "masks" / f"{name}.png", columns=12, size=(24, 32))
    # white on the left 12 of 24 columns: half of the square
    assert load_portraits(tmp_path, backend).faces.face_mask.mean() == pytest.approx(0.5, abs=0.02)


def test_alpha_can_be_the_mask_and_hides_nothing(backend, tmp_path):
    image = picture(32, 32)
    image.putalpha(save_mask(tmp_path / "other" / "a.png"))
    image.save(tmp_path / "a.png")
    picture(32, 32).save(tmp_path / "b.png")
    with pytest.warns(Notice, match="b.png: not transparent anywhere"):
        portraits = load_portraits(tmp_path, backend, mask_from="alpha")
    assert portraits.faces.face_mask[0].sum() == 5 * 32
    assert portraits.images[0, :, 8, 30].tolist() == [0, 0, 1]  # blue, though transparent
    flat = load_portraits(tmp_path, backend)
    assert flat.images[0, :, 8, 30].tolist() == [1, 1, 1]
    assert torch.equal(flat.faces.face_mask[0], flat.faces.face_mask[1])


def test_masks_on_transparency_are_read(backend, folder):
    paint = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    paint.paste((255, 255, 255, 255), (0, 0, 5, 32))
    (folder / "masks").mkdir()
    for name in ("a.png", "b.png"):
        paint.save(folder / "masks" / name)
    assert load_portraits(folder, backend).faces.face_mask.sum() == 2 * 5 * 32


@pytest.mark.parametrize("columns, message", [(0, "the mask is empty"), (32, "the mask covers everything")])
def test_empty_and_full_masks_raise(backend, folder, columns, message):
    save_mask(folder / "masks" / "a.png", columns)
    save_mask(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=f"masks/a.png: {message}"):
        load_portraits(folder, backend)
    portraits = load_portraits(folder, backend, strict=False)
    assert list(portraits.mask_problems) == [folder / "a.png"]
    assert portraits.faces.face_mask[0].mean() == columns / 32


def test_unknown_mask_origins_raise(backend, folder):
    with pytest.raises(ValueError, match="mask_from: 'files or so' unknown. Choose from"):
        load_portraits(folder, backend, mask_from="files or so")


def test_saved_images_are_loaded_as_they_were(backend, tmp_path):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, image in zip("ab", images):
        save_image(image, tmp_path / f"{name}.png")
    assert torch.allclose(load_portraits(tmp_path, backend).images, images, atol=0.5 / 255 + 1e-6)
