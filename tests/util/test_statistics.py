import math

import pytest
import torch

from mcpkg.util.statistics import bootstrap_diversity, bootstrap_interval, mean_pairwise_cosine, wilson_interval


def test_bootstrap_matches_the_normal_interval(generator):
    values = torch.randn(400, generator=generator)
    interval = bootstrap_interval(values, generator)
    half = 1.96 * values.std().item() / 20  # sqrt(400)
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert interval.low == pytest.approx(interval.mean - half, abs=0.015)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.015)


def test_bootstrap_leaves_out_what_is_undefined(generator):
    interval = bootstrap_interval(torch.tensor([1.0, math.nan, 1.0]), generator)
    assert (interval.mean, interval.low, interval.high, interval.n) == (1, 1, 1, 2)
    assert math.isnan(bootstrap_interval(torch.tensor([math.nan]), generator).mean)


def test_pairwise_cosine_counts_different_vectors_only():
    # Three pairs of cosines 0, 1 and 0.
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert mean_pairwise_cosine(vectors) == pytest.approx(1 / 3)
    assert mean_pairwise_cosine(vectors[:1]) == 1.0


def test_diversity_is_one_minus_the_cosine_of_different_images(generator):
    # As above: 1 - 1/3. Of four images that are alike, 0 in every resample, though some are drawn twice.
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    interval = bootstrap_diversity(vectors, generator)
    assert interval.mean == pytest.approx(2 / 3) and interval.n == 3
    assert interval.low == 0 and interval.high == pytest.approx(1)  # two alike drawn; only unlike pairs drawn
    alike = bootstrap_diversity(vectors[:1].expand(4, 2), generator)
    assert (alike.mean, alike.low, alike.high) == (0, 0, 0)


def test_an_image_drawn_twice_is_not_compared_with_itself(generator):
    # All different images are at right angles: 1 in every resample, whatever was drawn twice.
    interval = bootstrap_diversity(torch.eye(5), generator)
    assert (interval.mean, interval.low, interval.high) == (1, 1, 1)


def test_one_image_has_no_diversity(generator):
    assert math.isnan(bootstrap_diversity(torch.eye(3)[:1], generator).mean)


def test_wilson_by_hand():
    # 8 of 10: middle (0.8 + 3.8415 / 20) / 1.38415 = 0.71674;
    # half 1.95996 * sqrt(0.016 + 3.8415 / 400) / 1.38415 = 0.22659
    interval = wilson_interval(8, 10)
    assert (interval.mean, interval.n) == (0.8, 10)
    assert interval.low == pytest.approx(0.4902, abs=1e-4) and interval.high == pytest.approx(0.9433, abs=1e-4)


def test_few_votes_that_all_agree_prove_little():
    interval = wilson_interval(3, 3)
    assert interval.high == 1 and interval.low == pytest.approx(3 / (3 + 1.959964**2))
    assert math.isnan(wilson_interval(0, 0).mean)
