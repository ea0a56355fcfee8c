"""Renders show the attributes that they are given."""

import pytest
import torch

from mcpkg.world.attributes import ATTRIBUTES, FACE, HAIR, IDENTITY, PARTS, Looks, code, readable, sample_nuisance
from mcpkg.world.population import BALANCED
from mcpkg.world.render import render_portraits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def portraits(n: int, seed: int = 0, population=BALANCED):
    rng = generator(seed)
    people = population.people(n, rng)
    return people, population.looks(people, rng), sample_nuisance(n, rng)


def test_the_same_seed_gives_the_same_picture():
    first, again, other = (render_portraits(*portraits(4, seed), size=64) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image) and torch.equal(first.parts, again.parts)
    assert not torch.equal(first.image, other.image)


def test_a_portrait_does_not_depend_on_the_batch_it_is_drawn_in():
    people, looks, nuisance = portraits(40)
    batch, alone = (
        render_portraits(people, looks, nuisance, 64),
        render_portraits(people[37], looks[37], nuisance[37], 64),
    )
    assert torch.allclose(batch.image[37:38], alone.image, atol=1e-5)


def test_part_masks_sum_to_one_in_every_pixel():
    parts = render_portraits(*portraits(32), size=64).parts
    assert parts.shape == (32, len(PARTS), 64, 64)
    assert torch.allclose(parts.sum(dim=1), torch.ones(32, 64, 64), atol=1e-5)
    assert parts.min() >= -1e-6


@pytest.mark.slow
def test_the_face_fills_the_frame_as_in_a_head_and_shoulders_portrait():
    people, looks, nuisance = portraits(64)
    bare = Looks(looks.codes.clone())
    for attribute in ("hair", "accessory", "garment"):  # nothing in front of the face
        bare.codes[:, list(ATTRIBUTES).index(attribute)] = code(attribute, ATTRIBUTES[attribute][0])
    face = render_portraits(people, bare, nuisance, 128).parts[:, FACE] > 0.5
    widths = face.any(dim=1).sum(dim=1) / 128
    assert widths.quantile(0.02) >= 0.30 and widths.quantile(0.98) <= 0.50


@pytest.mark.slow
def test_landmarks_lie_on_the_face_with_the_left_eye_left():
    people, looks, nuisance = portraits(64)
    renders = render_portraits(people, looks, nuisance, 128)
    x, y = renders.landmarks.unbind(dim=2)
    assert (x[:, 0] < x[:, 1]).all() and (x[:, 3] < x[:, 4]).all() and (y[:, 0] < y[:, 3]).all()
    nose = (renders.landmarks[:, 2] * 128).long()
    assert (renders.parts[torch.arange(64), FACE, nose[:, 1], nose[:, 0]] > 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("trait", IDENTITY)
def test_every_identity_parameter_shows(trait):
    people, _looks, nuisance = portraits(6, seed=3)
    plain = Looks.of().codes.expand(6, -1)
    people.feminine[:], people.robot[:] = False, False
    low, high = people.shape.clone(), people.shape.clone()
    low[:, IDENTITY.index(trait)], high[:, IDENTITY.index(trait)] = -0.8, 0.8
    if trait == "mole_place":  # seen only where there is a mole
        low[:, IDENTITY.index("mole_size")] = high[:, IDENTITY.index("mole_size")] = 1.0
    images = [
        render_portraits(type(people)(s, people.feminine, people.robot), Looks(plain), nuisance).image
        for s in (low, high)
    ]
    assert ((images[0] - images[1]).abs().amax(dim=(1, 2, 3)) > 0.03).all()


@pytest.mark.slow
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_style_value_looks_different(attribute):
    people, _, nuisance = portraits(1, seed=4)
    people.robot[:] = False
    base = dict(hair="short", garment="shirt", garment_colour="red", background="striped")
    values = ATTRIBUTES[attribute]
    images = [render_portraits(people, Looks.of(**{**base, attribute: v}), nuisance).image for v in values]
    for i in range(len(values)):
        for j in range(i):
            assert (images[i] - images[j]).abs().max() > 0.1, (values[i], values[j])


def test_a_bald_head_has_no_hair_and_no_hair_colour():
    people, _, nuisance = portraits(1)
    look = Looks.of(hair="bald")
    assert render_portraits(people, look, nuisance).parts[:, HAIR].sum() == 0
    assert not readable(look)[0, list(ATTRIBUTES).index("hair_colour")]
