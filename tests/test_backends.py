"""One contract for every backend."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mcpkg.backends import BACKENDS, load_backend
from mcpkg.config import CUSTOM_DIFFUSION, MAGICAPTURE
from mcpkg.generate import generate_portraits
from mcpkg.portraits import Portraits
from mcpkg.trainer import personalise
from tests.tiny_backend import tiny_backend


@pytest.fixture(scope="module", params=["tiny", *BACKENDS])
def backend(request):
    if request.param == "tiny":
        return tiny_backend()
    try:
        return load_backend(request.param)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def portraits(backend):
    images, _ = backend.strangers(4)
    return Portraits((), images, backend.face_parser.parse(images))


def test_the_parser_describes_every_image(backend, portraits):
    size, faces = backend.image_size_px, portraits.faces
    assert portraits.images.shape == (4, 3, size, size)
    assert faces.found.dtype == torch.bool and (faces.found == (faces.count > 0)).all()
    assert faces.face_mask.shape == (4, 1, size, size)
    assert 0 <= faces.face_mask.min() and faces.face_mask.max() <= 1
    assert torch.allclose(faces.parts.sum(dim=1), torch.ones(4, size, size), atol=1e-4)
    assert faces.landmarks.shape == (4, 5, 2)


def test_landmarks_put_the_viewers_left_first(backend, portraits):
    left, right = portraits.faces.landmarks[:, 0, 0], portraits.faces.landmarks[:, 1, 0]
    eyes, mouth = portraits.faces.landmarks[:, :2, 1].mean(dim=1), portraits.faces.landmarks[:, 3:, 1].mean(dim=1)
    assert (left < right).all() and (eyes < mouth).all()


@pytest.mark.parametrize("role", ["identity_trainer", "identity_scorer"])
def test_identity_is_a_unit_vector_with_a_gradient(backend, portraits, role):
    images = portraits.images.clone().requires_grad_()
    vectors = getattr(backend, role).embed(images, portraits.faces.landmarks)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-4)
    vectors[:, 0].sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in images.grad)


def test_the_two_identity_embedders_are_not_one(backend, portraits):
    where = portraits.faces.landmarks
    trainer, scorer = (e.embed(portraits.images, where) for e in (backend.identity_trainer, backend.identity_scorer))
    assert not torch.allclose(trainer @ trainer.T, scorer @ scorer.T, atol=1e-3)


def test_style_is_a_unit_vector_blind_outside_the_mask(backend, portraits):
    keep = torch.ones_like(portraits.faces.face_mask)
    vectors = backend.style_reader.embed(portraits.images, keep)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-4)


def test_the_restorer_doubles_the_size(backend, portraits):
    restored = backend.restorer.restore(portraits.images)
    assert restored.shape == (4, 3, 2 * backend.image_size_px, 2 * backend.image_size_px)


def test_latents_have_a_deviation_of_about_one_and_decode_with_gradient(backend, portraits):
    latents = backend.encode(portraits.images).detach()
    if backend.name != "tiny":  # random weights are not scaled
        assert 0.6 < latents.std() < 1.6
    images = backend.decode(latents.requires_grad_())
    assert images.shape == portraits.images.shape
    images.sum().backward()
    assert latents.grad.abs().sum() > 0


def test_it_personalises_and_generates(backend, portraits):
    method = backend.tune(MAGICAPTURE)
    method = replace(method, phases=tuple(replace(phase, steps=1) for phase in method.phases), identity_max_timestep=1.0)
    adapter = personalise(backend, portraits, portraits, method, progress=False)
    generated = generate_portraits(backend, adapter, n=1, steps=2, capture=True)
    size = backend.attention_size
    assert generated.maps["source"].shape == (1, size, size)
    assert generated.images.isfinite().all()


def test_tuning_gives_every_method_as_many_steps(backend):
    if backend.name == "tiny":
        pytest.skip("the tiny backend does not tune")
    steps = {sum(phase.steps for phase in backend.tune(method).phases) for method in (MAGICAPTURE, CUSTOM_DIFFUSION)}
    assert len(steps) == 1


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="backend 'maxi' is not known. Choose one of: mini"):
        load_backend("maxi")


def test_missing_weights_say_how_to_get_them(tmp_path):
    from mcpkg.backends.mini import load_mini

    with pytest.raises(FileNotFoundError, match="mcpkg.mini.train"):
        load_mini(weights=tmp_path)


def test_loading_prints_nothing(backend):
    if backend.name == "tiny":
        pytest.skip("nothing is loaded")
    code = f"from mcpkg.backends import load_backend; load_backend({backend.name!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
