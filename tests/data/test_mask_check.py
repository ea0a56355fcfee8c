import json
from dataclasses import replace

import pytest
import torch

from mcpkg.data.mask_check import change_masks, diagnose_masks
from mcpkg.data.portraits import load_portraits
from tests.data.test_image_files import picture
from tests.data.test_portraits import save_mask
from tests.helpers.tiny_backend import disc, tiny_backend, tiny_portraits


@pytest.fixture
def backend():
    return tiny_backend()


def with_masks(backend, *masks):
    """Portraits of these face masks."""
    portraits = tiny_portraits(backend, len(masks))
    return replace(portraits, faces=replace(portraits.faces, face_mask=torch.stack(masks)))


def rectangle(rows, columns):
    mask = torch.zeros(1, 32, 32)
    mask[:, :rows, :columns] = 1
    return mask


def test_masks_that_fit_their_faces_have_no_warnings(backend):
    findings = diagnose_masks(backend, tiny_portraits(backend, 2))
    assert [finding.warnings for finding in findings] == [(), ()]
    assert findings[0].on_face == pytest.approx(1)


def test_coverage_is_measured_at_every_size(backend):
    # 16 x 18 of 32 x 32 pixels; latents are 8 x 8 cells of 4 pixels: 4 x 4.5 of 64; attention maps as many: 4 x 5
    (finding,) = diagnose_masks(backend, with_masks(backend, rectangle(16, 18)))
    assert finding.coverage == pytest.approx({"pixels": 288 / 1024, "latent": 18 / 64, "attention": 20 / 64})
    assert finding.latent.shape == finding.attention.shape == (1, 8, 8)


def test_the_reference_trains_outside_the_face(backend):
    (finding,) = diagnose_masks(backend, with_masks(backend, rectangle(16, 16)), role="reference")
    assert finding.coverage["pixels"] == finding.coverage["latent"] == 0.75


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.zeros(1, 32, 32), "0.png: the mask is empty"),
        (torch.ones(1, 32, 32), "0.png: the mask covers 100% of the image"),
        (rectangle(7, 7), "0.png: the mask covers 3.1 latent cells"),  # 49 pixels of 16 a cell
        (1 - disc(torch.zeros(1, 3, 32, 32))[0], "0.png: the mask covers 0% of the face. Is it inverted"),
    ],
)
def test_a_wrong_mask_gets_one_warning(backend, mask, message):
    portraits = with_masks(backend, mask, disc(torch.zeros(1, 3, 32, 32))[0])
    wrong, right = diagnose_masks(backend, portraits)
    assert len(wrong.warnings) == 1 and wrong.warnings[0].startswith(message)
    assert right.warnings == ()


def test_a_mask_file_of_another_size_can_be_checked(backend, tmp_path):
    for name in ("a.png", "b.png"):
        picture(32, 32).save(tmp_path / name)
        save_mask(tmp_path / "masks" / name, columns=16)
    save_mask(tmp_path / "masks" / "a.png", columns=8, size=(16, 16))
    portraits = load_portraits(tmp_path, backend, strict=False)
    first, second = diagnose_masks(backend, portraits)
    assert "masks/a.png: the mask is 16 x 16 pixels, its image a.png 32 x 32" in first.warnings[0]
    assert first.coverage["pixels"] == pytest.approx(second.coverage["pixels"], abs=0.02)


def test_masks_and_images_of_different_sizes_raise(backend):
    portraits = replace(tiny_portraits(backend, 1), faces=backend.face_parser.parse(torch.rand(1, 3, 16, 16)))
    with pytest.raises(ValueError, match="face masks of 16 x 16, images of 32 x 32 pixels"):
        diagnose_masks(backend, portraits)
    with pytest.raises(ValueError, match="role: 'style' unknown"):
        diagnose_masks(backend, tiny_portraits(backend, 1), role="style")


def test_findings_are_ready_for_json(backend):
    (finding,) = diagnose_masks(backend, with_masks(backend, torch.zeros(1, 32, 32)))
    values = json.loads(json.dumps(finding.as_dict()))
    assert values["image"] == "0.png" and values["coverage"]["pixels"] == 0 and len(values["warnings"]) == 1


def test_masks_are_changed_and_images_removed(backend):
    portraits = with_masks(backend, rectangle(8, 8), rectangle(16, 16), rectangle(4, 4))
    changed = change_masks(portraits, [True, False, True], [0, 0, 2], [3, 0, 0], [0, 0, 0])
    assert [path.name for path in changed.paths] == ["0.png", "2.png"]
    assert torch.equal(changed.images, portraits.images[[0, 2]])
    first, second = changed.faces.face_mask[:, 0]
    assert first[:8, 3:11].all() and first.sum() == 64  # moved to the right
    assert second[:6, :6].all() and second.sum() == 36  # two wider, where the frame leaves room
    assert changed.faces.found.tolist() == [True, True]


def test_too_few_images_or_values_raise(backend):
    portraits = tiny_portraits(backend, 2)
    with pytest.raises(ValueError, match="1 of 2 images kept"):
        change_masks(portraits, [True, False], [0, 0], [0, 0], [0, 0])
    with pytest.raises(ValueError, match="grow_px: 1 values for 2 images"):
        change_masks(portraits, [True, True], [0], [0, 0], [0, 0])
