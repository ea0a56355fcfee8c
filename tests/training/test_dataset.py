from dataclasses import replace

import pytest
import torch

from mcpkg.method.masks import to_latent_mask
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.prompts import draw_prompts
from mcpkg.training import dataset
from mcpkg.training.dataset import draw_batch, encode_dataset, jitter_colours, mirror_landmarks
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits


def test_composed_pseudo_labels_are_the_reference_images(generator):
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3), tiny_portraits(backend, 2, seed=5)
    dataset = encode_dataset(backend, source, reference, MAGICAPTURE, generator)
    assert torch.equal(dataset["composed"].latents, dataset["reference"].latents)
    assert dataset["source"].latents.shape == (3, 5, 8, 8)
    # Source counts inside the face, reference outside it: together they cover everything.
    assert torch.allclose(dataset["source"].mask[:2] + dataset["reference"].mask, torch.ones(2, 1, 8, 8))
    unmasked = encode_dataset(backend, source, reference, replace(MAGICAPTURE, masked=False), generator)
    assert (unmasked["source"].mask == 1).all()


def test_a_batch_shows_no_image_twice_before_each_was_shown(generator):
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 3)
    dataset = encode_dataset(backend, portraits, portraits, MAGICAPTURE, generator)
    batch = draw_batch(dataset, ("source", "composed"), replace(MAGICAPTURE, samples_per_task=3), generator)
    assert len(batch.images.latents.unique(dim=0)) == 3
    assert len(batch.images.latents) == 6
    assert batch.tasks == ("source",) * 3 + ("composed",) * 3


def test_prompts_are_drawn_after_the_images_from_the_same_stream(generator):
    backend, method = tiny_backend(), replace(MAGICAPTURE, samples_per_task=2, composed_source=0.5)
    source, reference = tiny_portraits(backend, 3), tiny_portraits(backend, 2, seed=5)
    dataset = encode_dataset(backend, source, reference, method, generator)
    batch = draw_batch(dataset, ("source", "reference"), method, torch.Generator().manual_seed(3))
    by_hand = torch.Generator().manual_seed(3)
    first, second = (torch.randperm(n, generator=by_hand)[:2] for n in (3, 2))
    for name in ("latents", "mask", "face", "landmarks"):
        drawn = torch.cat((getattr(dataset["source"], name)[first], getattr(dataset["reference"], name)[second]))
        assert torch.equal(getattr(batch.images, name), drawn), name
    assert batch.tasks == ("source", "source", "reference", "reference")
    assert list(batch.prompts) == draw_prompts(batch.tasks, by_hand, composed_source=0.5)


def test_a_flip_mirrors_picture_mask_and_landmarks_alike(generator):
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    face = torch.zeros_like(portraits.faces.face_mask)
    face[..., : face.shape[-1] // 4] = 1  # at the left
    portraits = replace(portraits, faces=replace(portraits.faces, face_mask=face))
    plain = encode_dataset(backend, portraits, portraits, MAGICAPTURE, generator)["source"]
    both = encode_dataset(backend, portraits, portraits, replace(MAGICAPTURE, flip=True), generator)["source"]

    torch.testing.assert_close(both.latents[:2], plain.latents)
    torch.testing.assert_close(both.latents[2:], backend.encode(portraits.images.flip(-1)))
    assert torch.equal(both.face[2:], face.flip(-1))
    assert torch.equal(both.mask[2:], to_latent_mask(face.flip(-1), (8, 8)))
    # The mask's quarter of 8 columns moves from the left end to the right one.
    assert both.mask[:2].sum(dim=(0, 1, 2)).tolist() == [16, 16, 0, 0, 0, 0, 0, 0]
    assert both.mask[2:].sum(dim=(0, 1, 2)).tolist() == [0, 0, 0, 0, 0, 0, 16, 16]


def test_a_mirrored_face_has_its_left_eye_at_the_left():
    face = torch.tensor([[[0.3, 0.4], [0.5, 0.4], [0.45, 0.5], [0.3, 0.6], [0.6, 0.7]]])
    # x becomes 1 - x; the eye at 0.5 is now at 0.5, left of the one at 0.7
    expected = torch.tensor([[[0.5, 0.4], [0.7, 0.4], [0.55, 0.5], [0.4, 0.7], [0.7, 0.6]]])
    torch.testing.assert_close(mirror_landmarks(face), expected)


def test_latents_can_be_drawn_instead_of_their_mean(generator):
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    method = replace(MAGICAPTURE, sampled_latents=True)
    drawn = encode_dataset(backend, portraits, portraits, method, generator)["source"].latents
    vae = backend.pipeline.vae
    predicted = vae.encode(portraits.images * 2 - 1).latent_dist
    mean, deviation = predicted.mean * vae.config.scaling_factor, predicted.std * vae.config.scaling_factor
    noise = (drawn - mean) / deviation
    assert noise.std().item() == pytest.approx(1, abs=0.1) and noise.mean().abs() < 0.1


def test_colours_are_jittered_once_by_brightness_and_contrast(generator):
    image = torch.tensor([0.2, 0.4]).expand(1, 3, 2, 2)
    # 1 + 0.5 (2 u - 1) with u = 0 for brightness and 1 for contrast: factors 0.5 and 1.5. Brightness gives 0.1 and 0.2,
    # whose mean is 0.15; contrast takes them 1.5 times as far from it: 0.075 and 0.225.
    u = iter([torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset.torch, "rand", lambda *size, generator: next(u))
        jittered = jitter_colours(image, 0.5, generator)
    torch.testing.assert_close(jittered, torch.tensor([0.075, 0.225]).expand(1, 3, 2, 2))
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 2)
    plain, changed = (
        encode_dataset(backend, portraits, portraits, replace(MAGICAPTURE, colour_jitter=strength), generator)["source"]
        for strength in (0.0, 0.1)
    )
    assert not torch.equal(plain.latents, changed.latents) and torch.equal(plain.mask, changed.mask)
