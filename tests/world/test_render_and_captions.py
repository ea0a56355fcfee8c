"""The rendered world: what goes into a portrait is what can be read from it."""

import pytest
import torch

from mcpkg.world.attributes import ATTRIBUTES, FACE, HAIR, IDENTITY, PARTS, Looks, code, readable, sample_nuisance
from mcpkg.world.captions import VOCABULARY, describe, write_captions
from mcpkg.world.population import BALANCED, WEB
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


def test_the_face_fills_the_frame_as_in_a_head_and_shoulders_portrait():
    people, looks, nuisance = portraits(64)
    bare = Looks(looks.codes.clone())
    for attribute in ("hair", "accessory", "garment"):  # nothing in front of the face
        bare.codes[:, list(ATTRIBUTES).index(attribute)] = code(attribute, ATTRIBUTES[attribute][0])
    face = render_portraits(people, bare, nuisance, 128).parts[:, FACE] > 0.5
    widths = face.any(dim=1).sum(dim=1) / 128
    assert widths.quantile(0.02) >= 0.30 and widths.quantile(0.98) <= 0.50


def test_landmarks_lie_on_the_face_with_the_left_eye_left():
    people, looks, nuisance = portraits(64)
    renders = render_portraits(people, looks, nuisance, 128)
    x, y = renders.landmarks.unbind(dim=2)
    assert (x[:, 0] < x[:, 1]).all() and (x[:, 3] < x[:, 4]).all() and (y[:, 0] < y[:, 3]).all()
    nose = (renders.landmarks[:, 2] * 128).long()
    assert (renders.parts[torch.arange(64), FACE, nose[:, 1], nose[:, 0]] > 0.5).all()


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


def test_web_is_skewed_as_documented_and_balanced_is_not():
    def fractions(population):
        rng = generator(7)
        people = population.people(20_000, rng)
        looks = population.looks(people, rng)
        skin = people.skin
        dress = looks.garment == code("garment", "wedding dress")
        return (skin < -1 / 3).float().mean(), people.feminine[dress & ~people.robot].float().mean()

    light, feminine_dresses = fractions(WEB)
    # tones 1-3 of ten weigh (10 + 20 + 20) / 100, and tone 4 begins at skin -1/3 - 1/9
    assert 0.48 < light < 0.70
    assert feminine_dresses > 0.95  # 20 to 0.5
    light, feminine_dresses = fractions(BALANCED)
    assert 0.30 < light < 0.40 and 0.47 < feminine_dresses < 0.53


def test_words_have_the_parts_that_they_describe():
    people, _, _ = portraits(1)
    people.feminine[:], people.robot[:] = False, False
    look = Looks.of(hair="bob", hair_colour="blonde", garment="suit", garment_colour="blue", background="striped")
    (caption,) = write_captions(people, look, generator(), dropout=0.0)
    parts_of = dict(zip(caption.words, caption.parts))
    assert [PARTS[p] for p in parts_of["blonde"]] == ["hair"] == [PARTS[p] for p in parts_of["bob"]]
    assert [PARTS[p] for p in parts_of["blue"]] == ["garment"] and [PARTS[p] for p in parts_of["striped"]] == ["background"]
    assert parts_of["a"] == ()
    assert (
        describe(look, "man")
        == "a photo of a man with blonde bob hair wearing a blue suit on a white striped background"
    )


def test_captions_do_not_mention_colours_that_sepia_hides():
    people, _, _ = portraits(1)
    captions = [
        write_captions(people, Looks.of(garment_colour="red", treatment="sepia"), generator(i))[0] for i in range(50)
    ]
    assert not any({"red", "white", "black"} & set(c.words) for c in captions)


def test_the_vocabulary_holds_every_word_of_every_caption():
    people, looks, _ = portraits(500)
    used = {word for caption in write_captions(people, looks, generator()) for word in caption.words}
    assert used <= set(VOCABULARY)


def test_unknown_attributes_and_values_raise():
    with pytest.raises(ValueError, match="unknown attribute 'shoes'"):
        Looks.of(shoes="red")
    with pytest.raises(ValueError, match="hair: unknown value 'mohawk'"):
        Looks.of(hair="mohawk")
