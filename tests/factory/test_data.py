"""Training data is a function of seeds, and damage leaves pictures pictures."""

import numpy as np
import pytest
import torch

from mcpkg.factory.data import (
    LOOKS_PER_PERSON,
    Pool,
    create_once,
    degrade,
    degrade_to_half_size,
    generator_for,
    make_pool,
    part_fractions,
)
from mcpkg.world.attributes import PARTS


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    # One chunk, which is rendered in this process: no workers are started.
    return make_pool(tmp_path_factory.mktemp("pool"), "web", 32, seed=0, images=64)


def test_a_pool_is_rendered_once(pool):
    made = (pool.folder / "images.npy").stat().st_mtime_ns
    again = make_pool(pool.folder.parent, "web", 32, seed=0, images=64)
    assert len(again) == 64 and (again.folder / "images.npy").stat().st_mtime_ns == made
    assert list(pool.folder.parent.iterdir()) == [pool.folder]


def test_the_first_of_two_processes_creates_the_folder(tmp_path):
    with create_once(tmp_path / "pool") as slow:
        slow.mkdir()
        (slow / "by").write_text("slow")
        with create_once(tmp_path / "pool") as fast:
            fast.mkdir()
            (fast / "by").write_text("fast")
    assert (tmp_path / "pool" / "by").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), create_once(tmp_path / "pool") as partial:
        partial.mkdir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_batch_has_its_ground_truth(pool):
    batch = pool.batch(torch.tensor([0, 3, 4]))
    assert batch.images.shape == (3, 3, 32, 32) and batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.parts.max() < len(PARTS)
    assert LOOKS_PER_PERSON == 4 and batch.identity.tolist() == [0, 0, 1]
    assert torch.equal(batch.people.shape[0], batch.people.shape[1])  # the same person twice
    assert not torch.equal(batch.people.shape[1], batch.people.shape[2])


def test_no_pickle_is_needed_to_read_a_pool(pool):
    assert all(array.dtype != np.object_ for array in pool.arrays.values())


def test_a_random_stream_depends_on_its_seed_and_step_only():
    def draw(*key):
        return torch.rand(3, generator=generator_for(*key)).tolist()

    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(*key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


def test_part_fractions_are_areas():
    parts = torch.zeros(1, 4, 4, dtype=torch.int64)
    parts[0, :2, 0] = 1  # two of the four pixels of the upper left cell
    fractions = part_fractions(parts, 2)
    assert fractions[0, 1].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert torch.equal(fractions.sum(dim=1), torch.ones(1, 2, 2))


def test_damage_stays_within_the_range_of_a_picture_and_is_repeatable(generator):
    images = torch.rand(16, 3, 32, 32, generator=generator)
    before = images.clone()
    damaged = degrade(images, generator_for(0, 0))
    assert damaged.shape == images.shape and damaged.min() >= 0 and damaged.max() <= 1
    assert torch.equal(damaged, degrade(images, generator_for(0, 0))) and not torch.equal(damaged, images)
    assert torch.equal(images, before)


def test_degraded_pictures_have_half_the_size_and_similar_colours(generator):
    sharp = torch.rand(8, 3, 1, 1, generator=generator).expand(-1, -1, 64, 64)  # even, so that blur changes nothing
    degraded = degrade_to_half_size(sharp, generator_for(0, 0))
    assert degraded.shape == (8, 3, 32, 32) and 0 < (degraded - sharp[..., :32, :32]).abs().mean() < 0.05


def test_damage_lets_gradients_through(generator):
    images = (torch.rand(16, 3, 32, 32, generator=generator) * 0.5 + 0.25).requires_grad_()
    degrade(images, generator_for(0, 0)).sum().backward()
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()
