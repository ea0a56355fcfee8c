"""The centre of dlib's network, on vectors and pictures made up here."""

import json

import pytest
import torch
from PIL import Image, ImageEnhance
from torch.nn import functional

from mcpkg.backends.faces.dlib_net import DlibEmbedder, DlibFaceNet
from mcpkg.factory.dlib_centre import fit, measure, number_groups, read_groups, read_photos
from mcpkg.util.images import to_8_bit
from tests.helpers.tiny_backend import DiscParser

N_PEOPLE = 60


@pytest.fixture
def cone(generator):
    """Two photos each of many people, all in one narrow cone as dlib's vectors are, and whom they show."""
    people = functional.normalize(torch.randn(N_PEOPLE, 128, generator=generator), dim=1).repeat(2, 1)
    noise = 0.03 * torch.randn(2 * N_PEOPLE, 128, generator=generator)  # 0.03^2 * 128 = 0.12 of a person's 1
    return torch.eye(128)[0] * 3 + people + noise, torch.arange(N_PEOPLE).repeat(2)


ONE_GROUP = torch.zeros(2 * N_PEOPLE, dtype=torch.long)


def test_from_the_mean_of_others_strangers_are_at_zero_and_one_person_is_near_one(cone):
    net = DlibFaceNet()
    likeness, narrow = measure(net, *cone, ONE_GROUP), measure(net, *cone, ONE_GROUP, raw=True)
    assert len(likeness.own) == N_PEOPLE and len(likeness.others) == 5 * 4 * (12 * 11 // 2)  # of 12 people a fold
    assert likeness.others.mean() == pytest.approx(0, abs=0.03)
    assert likeness.own.mean() == pytest.approx(1 / 1.12, abs=0.05)
    assert narrow.others.mean() > 0.85  # 9 of 10 parts of a squared length are the cone's


def test_held_out_people_have_no_part_in_the_centre_that_they_are_seen_from(cone):
    vectors, people = cone
    moved = torch.where(people[:, None] % 5 == 0, vectors + 100, vectors)  # one fold is somewhere else
    alone = measure(DlibFaceNet(), moved, people, ONE_GROUP).others[: 4 * (12 * 11 // 2)]
    assert alone.min() > 0.9  # seen from the others' mean they are all on one side


def test_a_person_with_many_photos_counts_once():
    vectors = torch.zeros(4, 128)
    vectors[3] = 1.0
    centre, _ = fit(vectors, torch.tensor([0, 0, 0, 1]), torch.zeros(4, dtype=torch.long))
    assert torch.equal(centre, torch.full((128,), 0.5))


def test_a_difference_between_groups_of_people_counts_less_than_one_within(cone):
    vectors, people = cone
    apart = vectors + 2 * (people % 2)[:, None] * torch.eye(128)[1]  # two groups of people, far apart
    means = apart[:N_PEOPLE]
    likeness = measure(DlibFaceNet(), apart, people, ONE_GROUP)
    centred = functional.normalize(means - means.mean(dim=0), dim=1)
    same_group = people[:N_PEOPLE, None] % 2 == people[:N_PEOPLE] % 2
    assert (centred @ centred.T)[same_group].mean() > 0.4  # without whitening
    assert likeness.others.std() < (centred @ centred.T).std() / 2


def test_groups_weigh_the_same_as_if_there_were_as_many_people_in_each(cone):
    vectors, people = cone
    groups = (people % 4 == 0).long()  # 15 of 60 people
    small = groups == 1
    as_many = torch.cat([vectors, vectors[small], vectors[small]])
    others = torch.cat([people, people[small] + N_PEOPLE, people[small] + 2 * N_PEOPLE])
    expected = fit(as_many, others, torch.zeros_like(others))
    torch.testing.assert_close(fit(vectors, people, groups), expected, rtol=1e-3, atol=1e-3)
    assert (fit(vectors, people, ONE_GROUP)[0] - expected[0]).abs().max() > 0.01
    within = measure(DlibFaceNet(), vectors, people, groups).within
    assert {group: len(cosines) for group, cosines in within.items()} == {0: 5 * 4 * 36, 1: 5 * 4 * 3}  # 9, 3 a fold


def test_people_of_small_groups_and_of_unknown_ones_are_one_group(tmp_path):
    people = {f"a{i}": "female, a" for i in range(5)} | {f"b{i}": "male, b" for i in range(4)}
    path = tmp_path / "people.json"
    fields = [{"name_slug": name, "gender": group[:-3], "ethnicity": group[-1]} for name, group in people.items()]
    path.write_text(json.dumps([*fields, {"name_slug": None, "gender": "", "ethnicity": ""}]))
    names, numbers = number_groups({*people, "nobody knows"}, read_groups([path]))
    assert names == ["female, a", "others"]
    assert [numbers[name] for name in ("a0", "b0", "nobody knows")] == [0, 1, 1]
    path.write_text('[{"name_slug": "a"}]')
    with pytest.raises(ValueError, match="people.json: no list of people with name_slug"):
        read_groups([path])


def test_copies_of_a_photo_and_photos_without_a_face_are_left_out(tmp_path, generator):
    torch.manual_seed(0)
    first, second = (Image.fromarray(to_8_bit(torch.rand(3, 9, 9, generator=generator))).resize((64, 64))
                     for _ in range(2))  # fmt: skip
    pictures = {"old/ann.png": first, "new/ann.png": second, "new/bob.png": second,
                "newest/anna.png": ImageEnhance.Brightness(first).enhance(0.8),
                "new/nobody.png": Image.new("RGB", (64, 64))}  # fmt: skip
    for name, picture in pictures.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    folders = [tmp_path / name for name in ("old", "new", "newest")]
    with torch.no_grad():
        photos = read_photos(folders, DiscParser(), DlibEmbedder(DlibFaceNet().eval()), {"anna": "ann"})
    assert [photo.person for photo in photos] == ["ann", "ann", "bob"]
