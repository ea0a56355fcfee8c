import pytest
import torch

from mcpkg.data.image_files import read_image
from mcpkg.world.samples import PHOTOS, STYLES, SUBJECTS, make_samples, reference_people


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    out = tmp_path_factory.mktemp("samples")
    make_samples(out)
    return out


@pytest.mark.slow
def test_every_folder_has_its_portraits_and_a_mask_of_each(samples):
    folders = [folder for folder in samples.glob("*/*") if folder.is_dir()]
    assert len(folders) == len(SUBJECTS) + len(STYLES) + 2
    for folder in folders:
        names = sorted(path.name for path in folder.glob("*.png"))
        assert names == sorted(path.name for path in (folder / "masks").glob("*.png"))
        assert len(names) == PHOTOS


@pytest.mark.slow
def test_masks_are_white_on_the_face(samples):
    image = read_image(samples / "subjects" / "clara" / "01.png", 128)
    face = read_image(samples / "subjects" / "clara" / "masks" / "01.png", 128)[0] > 0.5
    assert 0.05 < face.float().mean() < 0.3
    red, _, blue = image[:, face].mean(dim=1)
    assert red > blue  # skin, and not the blue garment or the grey background


@pytest.mark.slow
def test_subjects_differ_in_skin_tone_and_presentation():
    assert len({subject.monk_tone for subject in SUBJECTS.values()}) == len(SUBJECTS)
    assert {subject.feminine for subject in SUBJECTS.values()} == {True, False}


@pytest.mark.slow
def test_reference_people_are_none_of_the_subjects():
    others = reference_people(9_100_000).shape
    for subject in SUBJECTS.values():
        assert (others - subject.people().shape).abs().amax(dim=1).min() > 0.1
    assert torch.unique(others, dim=0).shape == others.shape
