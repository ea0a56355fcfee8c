import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from mcpkg.metrics.realism import distance_to_real, image_statistics


def drawings(n, generator, size=64):
    """Flat pictures with a few edges: rectangles of one grey on another."""
    images = torch.full((n, 3, size, size), 0.2)
    for image in images:
        for _ in range(6):
            top, left = torch.randint(size // 2, (2,), generator=generator).tolist()
            height, width = torch.randint(8, size // 2, (2,), generator=generator).tolist()
            image[:, top : top + height, left : left + width] = torch.rand((), generator=generator)
    return images


def test_statistics_of_a_chequered_image():
    # Pixels 0 and 1 in turns: half the resolution is 0.5 everywhere, so detail is +-0.5: strength and mean size 0.5,
    # evenly spread. Nothing is left for the coarser octaves, where both are the floor of 1e-4.
    at = torch.arange(16)
    image = ((at[:, None] + at) % 2).float().expand(1, 3, 16, 16)
    expected = [math.log(0.5), 0, math.log(1e-4), 0, math.log(1e-4), 0]
    assert image_statistics(image)[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_real_images_are_about_one_away_whatever_they_show(generator):
    real, others = drawings(60, generator), drawings(60, generator)
    assert distance_to_real(others, real).mean() == pytest.approx(1, abs=0.25)
    assert distance_to_real(others, 1 - real).mean() == pytest.approx(1, abs=0.25)  # light for dark


def test_blur_and_noise_are_far_away(generator):
    real, others = drawings(60, generator), drawings(20, generator)
    blurred = interpolate(avg_pool2d(others, 2), scale_factor=2, mode="bilinear")
    noisy = others + 0.05 * torch.randn(others.shape, generator=generator)
    assert distance_to_real(blurred, real).min() > 2
    assert distance_to_real(noisy, real).min() > 2


def test_few_real_images_are_enough_for_a_number_and_one_is_not(generator):
    images = drawings(4, generator)
    assert distance_to_real(images, drawings(3, generator)).isfinite().all()
    assert distance_to_real(images, images[:1]).isnan().all()
