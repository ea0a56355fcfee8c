import json
import math

import pytest
import torch

from mcpkg.evaluate import N_STRANGERS, bootstrap_interval, evaluate_portraits, mean_pairwise_cosine, score_table
from mcpkg.generate import Generated
from tests.tiny_backend import disc, tiny_backend, tiny_portraits


@pytest.fixture(scope="module")
def setting():
    backend = tiny_backend()
    return backend, tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 3, seed=2)


def generated(images, **maps):
    return Generated(images, tuple(range(len(images))), "a photo", maps)


def test_the_sources_own_photo_scores_above_others(setting):
    backend, source, reference = setting
    own = evaluate_portraits(backend, generated(source.images), source, reference)
    other = evaluate_portraits(backend, generated(reference.images), source, reference)
    assert own.identity.mean > other.identity.mean
    assert other.style.mean > own.style.mean
    assert other.identity_to_reference.mean > own.identity_to_reference.mean


def test_scaled_identity_is_zero_for_strangers_and_one_for_own_photos(setting):
    backend, source, reference = setting
    strangers, _ = backend.strangers(N_STRANGERS)
    scores = evaluate_portraits(backend, generated(strangers), source, reference)
    assert scores.identity_scaled.mean == pytest.approx(0, abs=1e-4)
    scores = evaluate_portraits(backend, generated(source[:1].images), source[:1], reference)  # the very photo
    assert scores.identity_scaled.mean == pytest.approx(1, abs=1e-4)
    assert scores.identity_of_strangers < 0.9


def test_leakage_is_the_share_outside_the_face(setting):
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


def test_images_without_one_face_are_left_out_of_identity(setting):
    backend, source, reference = setting
    images = torch.cat((source.images[:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)))
    scores = evaluate_portraits(backend, generated(images), source, reference)
    assert scores.identity.n == 2 and scores.n_images == 4
    assert scores.faceless_share == 0.5
    assert scores.images.identity.isnan().tolist() == [False, False, True, True]


def test_scores_without_maps_are_ready_for_json(setting):
    backend, source, reference = setting
    scores = evaluate_portraits(backend, generated(source.images), source, reference)
    values = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert values["leakage_source"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert values["identity"].keys() == {"mean", "low", "high", "n"}
    assert "images" not in values
    assert "MagiCapture" in score_table({"MagiCapture": scores})


def test_bootstrap_matches_the_normal_interval(generator):
    values = torch.randn(400, generator=generator)
    interval = bootstrap_interval(values, generator)
    half = 1.96 * values.std().item() / 20  # sqrt(400)
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert interval.low == pytest.approx(interval.mean - half, abs=0.015)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.015)


def test_bootstrap_leaves_out_what_is_undefined(generator):
    interval = bootstrap_interval(torch.tensor([1.0, math.nan, 1.0]), generator)
    assert (interval.mean, interval.low, interval.high, interval.n) == (1.0, 1.0, 1.0, 2)
    assert math.isnan(bootstrap_interval(torch.tensor([math.nan]), generator).mean)


def test_pairwise_cosine_counts_different_vectors_only():
    # Three pairs of cosines 0, 1 and 0.
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert mean_pairwise_cosine(vectors) == pytest.approx(1 / 3)
    assert mean_pairwise_cosine(vectors[:1]) == 1.0
