from dataclasses import replace

import pytest
import torch

from mcpkg.config import MAGICAPTURE
from mcpkg.generate import generate_portraits
from mcpkg.trainer import personalise
from tests.tiny_backend import tiny_backend, tiny_portraits


@pytest.fixture(scope="module")
def backend():
    return tiny_backend()


@pytest.fixture(scope="module")
def adapter(backend):
    method = replace(MAGICAPTURE, phases=tuple(replace(p, steps=2) for p in MAGICAPTURE.phases), accumulation_steps=1)
    portraits = tiny_portraits(backend, 2)
    return personalise(backend, portraits, portraits, method, progress=False)


def test_images_are_portraits_of_the_backends_size(backend, adapter):
    generated = generate_portraits(backend, adapter, n=3, seed=5, steps=3)
    assert generated.images.shape == (3, 3, 32, 32)
    assert generated.seeds == (5, 6, 7)
    assert generated.prompt == "a photo of a <v1> person in the <v2> style"
    assert 0 <= generated.images.min() and generated.images.max() <= 1
    assert generated.maps == {}


def test_an_image_depends_on_its_seed_alone(backend, adapter):
    together = generate_portraits(backend, adapter, n=3, seed=5, steps=3)
    apart = generate_portraits(backend, adapter, n=3, seed=5, steps=3, batch_size=2)
    alone = generate_portraits(backend, adapter, n=1, seed=7, steps=3)
    assert torch.allclose(together.images, apart.images, atol=1e-5)
    assert torch.allclose(together.images[2:], alone.images, atol=1e-5)
    assert not torch.allclose(together.images[0], together.images[1], atol=1e-2)


def test_capture_changes_no_image_and_gives_maps(backend, adapter):
    plain = generate_portraits(backend, adapter, n=3, steps=3, batch_size=2)
    captured = generate_portraits(backend, adapter, n=3, steps=3, batch_size=2, capture=True)
    assert torch.equal(plain.images, captured.images)
    assert captured.maps.keys() == {"source", "reference"}
    assert captured.maps["source"].shape == (3, 8, 8)
    assert (captured.maps["source"] >= 0).all() and (captured.maps["source"] <= 1).all()


def test_only_words_in_the_prompt_are_captured(backend, adapter):
    generated = generate_portraits(backend, adapter, "a photo of a <v1> person", n=1, steps=2, capture=True)
    assert generated.maps.keys() == {"source"}


def test_it_works_without_guidance_and_without_adapter(backend):
    generated = generate_portraits(backend, prompt="a photo of a person", n=1, steps=2, guidance=1.0)
    assert generated.images.shape == (1, 3, 32, 32)


def test_impossible_wishes_are_refused(backend, adapter):
    with pytest.raises(ValueError, match="n is 0"):
        generate_portraits(backend, adapter, n=0)
    with pytest.raises(ValueError, match="no prompt given"):
        generate_portraits(backend)
