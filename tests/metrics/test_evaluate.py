import json
import math
from dataclasses import replace

import pytest
import torch

from mcpkg.data.portraits import Portraits
from mcpkg.inference.generate import Generated
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.metrics.evaluate import N_STRANGERS, collapse, evaluate_portraits
from mcpkg.metrics.scores import ImageScores, score_table
from tests.helpers.tiny_backend import disc, tiny_backend, tiny_portraits


@pytest.fixture(scope="module")
def setting():
    backend = tiny_backend()
    return backend, tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 3, seed=2)


def generated(images, **heatmaps):
    """Portraits, with attention maps of one layer, one head and one step if heatmaps are given by role."""
    maps = None
    if heatmaps:
        maps = AttentionMaps({role: torch.ones(len(images), 1, dtype=torch.bool) for role in heatmaps})
        maps.add({role: {"layer": heatmap[:, None]} for role, heatmap in heatmaps.items()}, 0)
    return Generated(images, tuple(range(len(images))), "a photo", maps)


def alike(backend, seed):
    """Three portraits that have most of their content in common."""
    portraits = tiny_portraits(backend, 3, seed)
    images = 0.8 * portraits.images[:1] + 0.2 * portraits.images
    return Portraits(portraits.paths, images, backend.face_parser.parse(images))


def test_the_sources_own_photo_scores_above_others(setting):
    backend, source, reference = setting
    own = evaluate_portraits(backend, generated(source.images), source, reference)
    other = evaluate_portraits(backend, generated(reference.images), source, reference)
    assert own.identity.mean > other.identity.mean
    assert other.style.mean > own.style.mean
    assert other.identity_to_reference.mean > own.identity_to_reference.mean


def test_scaled_identity_is_zero_for_strangers_and_one_for_own_photos():
    backend = tiny_backend()
    source, reference = alike(backend, seed=1), alike(backend, seed=2)
    strangers, _ = backend.strangers(N_STRANGERS)
    scores = evaluate_portraits(backend, generated(strangers), source, reference)
    assert scores.identity_scaled.mean == pytest.approx(0, abs=1e-4)
    scores = evaluate_portraits(backend, generated(source[:1].images), source[:1], reference)  # the very photo
    assert scores.identity_scaled.mean == pytest.approx(1, abs=1e-4)
    assert scores.identity_of_strangers < 0.9


def test_leakage_is_the_fraction_outside_the_face(setting):
    backend, source, reference = setting
    face = disc(source.images[:, :, ::4, ::4])[:, 0]  # 3 8 8: the disc at the maps' size
    scores = evaluate_portraits(
        backend, generated(source.images, source=torch.ones(3, 8, 8), reference=0.5 * (1 - face)), source, reference
    )
    # Uniform attention leaks as much as there is area outside.
    assert scores.leakage_source.mean == pytest.approx(scores.area_source, abs=1e-6)
    assert scores.attention_mass_source.mean == pytest.approx(1.0)
    assert scores.leakage_reference.mean < 0.2
    assert scores.area_source + scores.area_reference == pytest.approx(1.0)


def test_leakage_is_scored_for_the_roles_that_were_captured(setting):
    backend, source, reference = setting
    scores = evaluate_portraits(backend, generated(source.images, source=torch.ones(3, 8, 8)), source, reference)
    assert (scores.leakage_source.n, scores.leakage_reference.n) == (3, 0)


def test_images_without_one_face_are_left_out_of_identity(setting):
    backend, source, reference = setting
    images = torch.cat((source.images[:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)))
    scores = evaluate_portraits(backend, generated(images), source, reference)
    assert scores.identity.n == 2 and scores.n_images == 4
    assert scores.no_face_fraction == 0.5 and scores.n_without_face == 1 and scores.n_with_several_faces == 1
    assert scores.drops_style.n == scores.diversity_identity.n == 2
    assert scores.distance_to_real.n == scores.style.n == 4
    assert scores.images.identity.isnan().tolist() == [False, False, True, True]


def test_scores_without_maps_are_ready_for_json(setting):
    backend, source, reference = setting
    scores = evaluate_portraits(backend, generated(source.images), source, reference)
    values = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert values["leakage_source"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert values["identity"].keys() == {"mean", "low", "high", "n"}
    assert "images" not in values
    assert "MagiCapture" in score_table({"MagiCapture": scores})


def faces(identity, nearest, style, one_face=True):
    """One image's scores, of which only those given count."""
    values = (torch.tensor([float(x)]) for x in (identity, 0, nearest, style))
    return ImageScores(*values, leakage={}, mass={}, area={}, has_one_face=torch.tensor([float(one_face)]))


@pytest.mark.parametrize(
    "identity, nearest, style, copies, drops",
    [
        (0.8, 0.3, 0.9, 0, 0),  # the source in the style: 0.75 on the scale of identity against 0.125
        (0.3, 0.8, 0.9, 1, 0),  # a reference person in the style
        (0.8, 0.3, 0.4, 0, 1),  # the source as in the photos
        (0.3, 0.8, 0.4, 1, 1),
        (0.2, 0.5, 0.9, 0, 0),  # no one: 0.375 to the nearest reference is still a stranger
        (0.65, 0.7, 0.9, 0, 0),  # between the two: 0.5625 against 0.625, within the margin of 0.1
        (0.3, 0.8, 0.61, 1, 0),  # the style's middle is (0.3 + 0.9) / 2 = 0.6
        (0.3, 0.8, 0.59, 1, 1),
    ],
)
def test_collapse_of_hand_made_cases(identity, nearest, style, copies, drops):
    # Identity is 0.2 among strangers and 1.0 among source photos; style 0.3 for the source photos, 0.9 for references.
    verdict = collapse(faces(identity, nearest, style), (0.2, 1.0), (0.3, 0.9), copy_from=0.5)
    assert [x.item() for x in verdict] == [copies, drops]


def test_collapse_is_unknown_without_a_face_or_a_scale():
    def verdict(one_face=True, identity_scale=(0.2, 1.0), style_scale=(0.3, 0.9), copy_from=0.5):
        outcome = collapse(faces(0.3, 0.8, 0.4, one_face), identity_scale, style_scale, copy_from)
        return [x.item() for x in outcome]

    nan = pytest.approx(math.nan, nan_ok=True)
    assert verdict() == [1, 1]
    assert verdict(one_face=False) == [nan, nan]
    assert verdict(identity_scale=(0.2, 0.2)) == [nan, 1]
    assert verdict(style_scale=(0.3, 0.3)) == [1, nan]
    assert verdict(copy_from=0.76) == [0, 1]  # (0.8 - 0.2) / 0.8 = 0.75: too many strangers are as near


def test_copies_of_the_inputs_collapse():
    backend = tiny_backend()
    source, reference = alike(backend, seed=1), alike(backend, seed=2)
    copied = evaluate_portraits(backend, generated(reference.images), source, reference)
    assert copied.copies_reference.mean == 1 and copied.drops_style.mean == 0 and copied.collapse.mean == 1
    assert copied.style_scaled.mean > 1  # each is its own reference, too
    unchanged = evaluate_portraits(backend, generated(source.images), source, reference)
    assert unchanged.copies_reference.mean == 0 and unchanged.drops_style.mean == 1
    assert unchanged.style_scaled.mean == pytest.approx(0, abs=1e-5)


def test_real_images_are_about_as_real_as_others_and_blurred_ones_are_not(setting):
    backend, source, reference = setting
    images = tiny_portraits(backend, 12, seed=3).images  # noise is what is real here
    good = evaluate_portraits(backend, generated(images), source, reference)
    blurred = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
    bad = evaluate_portraits(backend, generated(blurred), source, reference)
    assert good.distance_to_real.mean == pytest.approx(1, abs=0.5)
    assert good.distance_to_real_of_references == pytest.approx(1, abs=0.5)
    assert bad.distance_to_real.low > 2 * good.distance_to_real.high


def test_the_same_image_again_and_again_is_not_diverse(setting):
    backend, source, reference = setting
    varied = evaluate_portraits(backend, generated(source.images), source, reference)
    alike = evaluate_portraits(backend, generated(source.images[:1].repeat(3, 1, 1, 1)), source, reference)
    assert alike.diversity_identity.mean == pytest.approx(0, abs=1e-5)
    assert alike.diversity_style.mean == pytest.approx(0, abs=1e-5)
    assert varied.diversity_identity.mean == pytest.approx(1 - varied.identity_among_source, abs=1e-5)


def test_without_strangers_the_given_portraits_are_what_is_real():
    backend = replace(tiny_backend(), strangers=None)
    source, reference = alike(backend, seed=1), alike(backend, seed=2)
    scores = evaluate_portraits(backend, generated(source.images), source, reference)
    assert math.isnan(scores.identity_of_strangers) and scores.identity_scaled.n == 0
    assert scores.distance_to_real.n == scores.copies_reference.n == 3


def test_where_the_cosine_of_strangers_is_known_it_is_the_zero_of_scaled_identity():
    backend = replace(tiny_backend(), strangers=None, stranger_cosine=0.1)
    source, reference = alike(backend, seed=1), alike(backend, seed=2)
    scores = evaluate_portraits(backend, generated(reference.images), source, reference)
    assert scores.identity_of_strangers == 0.1
    expected = (scores.identity.mean - 0.1) / (scores.identity_among_source - 0.1)
    assert scores.identity_scaled.mean == pytest.approx(expected)


def test_scores_say_whether_the_network_of_the_identity_loss_gave_them(setting):
    backend, source, reference = setting
    same = replace(backend, identity_scorer=backend.identity_trainer)
    scores = [evaluate_portraits(one, generated(source.images), source, reference) for one in (backend, same)]
    assert [of_one.as_dict()["scored_by_trainer"] for of_one in scores] == [False, True]


def test_the_backends_own_mark_is_scored_where_it_gives_one(setting):
    backend, source, reference = setting
    assert evaluate_portraits(backend, generated(source.images), source, reference).aesthetic.n == 0

    class Brightness:
        def score(self, images):
            return images.mean(dim=(1, 2, 3))

    marked = replace(backend, aesthetic=Brightness())
    scores = evaluate_portraits(marked, generated(source.images), source, reference)
    assert scores.aesthetic.mean == pytest.approx(source.images.mean().item()) and scores.aesthetic.n == 3
