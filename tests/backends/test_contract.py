"""One contract for every backend."""

import inspect
import subprocess
import sys
from dataclasses import replace

import diffusers
import pytest
import torch
import transformers

from mcpkg.backends import BACKENDS, BUILT_IN, load_backend
from mcpkg.backends.mini import backend as mini
from mcpkg.data.portraits import Portraits
from mcpkg.factory.recipes import RECIPES
from mcpkg.inference.generate import generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.interventions import remove_attention
from mcpkg.method.methods import CUSTOM_DIFFUSION, MAGICAPTURE, WITHOUT_COMPOSED, WITHOUT_REFOCUSING
from mcpkg.method.prompts import encode_prompts
from mcpkg.training.trainer import personalise
from mcpkg.util.lazy import import_function
from tests.helpers.tiny_backend import tiny_backend
from tests.helpers.tiny_sd15 import tiny_sd15

STAND_INS = {"tiny": tiny_backend, "sd15": tiny_sd15}


@pytest.fixture(scope="module", params=["tiny", *BACKENDS])
def backend(request):
    make = STAND_INS.get(request.param)
    return make() if make else load_backend(request.param)


@pytest.fixture(scope="module")
def portraits(backend):
    images, _ = backend.strangers(4)
    return Portraits((), images, backend.face_parser.parse(images))


@pytest.mark.slow
def test_the_parser_describes_every_image(backend, portraits):
    size, faces = backend.image_size_px, portraits.faces
    assert portraits.images.shape == (4, 3, size, size)
    assert faces.found.dtype == torch.bool and (faces.found == (faces.count > 0)).all()
    assert faces.face_mask.shape == (4, 1, size, size)
    assert faces.face_mask.min() >= 0 and faces.face_mask.max() <= 1
    assert torch.allclose(faces.parts.sum(dim=1), torch.ones(4, size, size), atol=1e-4)
    assert faces.landmarks.shape == (4, 5, 2)


def test_landmarks_put_the_viewers_left_first(backend, portraits):
    left, right = portraits.faces.landmarks[:, 0, 0], portraits.faces.landmarks[:, 1, 0]
    eyes, mouth = portraits.faces.landmarks[:, :2, 1].mean(dim=1), portraits.faces.landmarks[:, 3:, 1].mean(dim=1)
    assert (left < right).all() and (eyes < mouth).all()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["identity_trainer", "identity_scorer"])
def test_identity_is_a_unit_vector_with_a_gradient(backend, portraits, role):
    images = portraits.images.clone().requires_grad_()
    vectors = getattr(backend, role).embed(images, portraits.faces.landmarks)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-4)
    vectors[:, 0].sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in images.grad)


def test_the_two_identity_embedders_differ(backend, portraits):
    where = portraits.faces.landmarks
    trainer, scorer = (e.embed(portraits.images, where) for e in (backend.identity_trainer, backend.identity_scorer))
    assert not torch.allclose(trainer @ trainer.T, scorer @ scorer.T, atol=1e-3)


def test_style_is_a_unit_vector_blind_outside_the_mask(backend, portraits):
    keep = torch.zeros_like(portraits.faces.face_mask)
    keep[..., : keep.shape[-1] // 2] = 1
    vectors = backend.style_reader.embed(portraits.images, keep)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-4)
    hidden = torch.where(keep == 1, portraits.images, 1 - portraits.images)
    shown = torch.where(keep == 1, 1 - portraits.images, portraits.images)
    assert torch.allclose(backend.style_reader.embed(hidden, keep), vectors, atol=1e-5)
    assert not torch.allclose(backend.style_reader.embed(shown, keep), vectors, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", *BUILT_IN])
def test_the_restorer_doubles_the_size(name):
    backend = (
        STAND_INS[name]() if name in STAND_INS else load_backend(name)
    )  # those of photographs: test_restoration.py
    images, _ = backend.strangers(4)
    assert backend.restorer.restore(images).shape == (4, 3, 2 * backend.image_size_px, 2 * backend.image_size_px)


@pytest.mark.slow
def test_latents_have_a_deviation_of_about_one_and_decode_with_gradient(backend, portraits):
    latents = backend.encode(portraits.images).detach()
    if backend.name not in STAND_INS:  # random weights are not scaled
        assert 0.6 < latents.std() < 1.6
    images = backend.decode(latents.requires_grad_())
    assert images.shape == portraits.images.shape
    images.sum().backward()
    assert latents.grad.abs().sum() > 0


@pytest.mark.slow
def test_it_personalises_and_generates(backend, portraits):
    method = backend.tune(MAGICAPTURE)
    method = replace(
        method, phases=tuple(replace(phase, steps=1) for phase in method.phases), identity_max_timestep=1.0
    )
    adapter = personalise(backend, portraits, portraits, method, progress=False)
    generated = generate_portraits(backend, adapter, sampling=Sampling(n=1, steps=2), capture=True)
    size = backend.attention_size
    assert generated.maps.heatmap("source").shape == (1, size, size)
    assert generated.images.isfinite().all()


def test_tuning_gives_every_method_as_many_steps():
    steps = {sum(phase.steps for phase in mini.tune(method).phases) for method in (MAGICAPTURE, CUSTOM_DIFFUSION)}
    assert len(steps) == 1


@pytest.mark.parametrize("shown", [True, False])
def test_loading_leaves_progress_bars_as_they_were(monkeypatch, shown):
    for log in (diffusers.utils.logging, transformers.utils.logging):
        monkeypatch.setattr(log, "_tqdm_active", shown)
    with mini._quiet():
        assert not transformers.utils.logging.is_progress_bar_enabled()
    assert diffusers.utils.logging.is_progress_bar_enabled() == shown
    assert transformers.utils.logging.is_progress_bar_enabled() == shown


def test_tuning_leaves_off_what_a_method_does_without():
    refocusing = [phase.refocusing.weight for phase in mini.tune(WITHOUT_REFOCUSING).phases]
    assert refocusing == [0, 0] and mini.tune(MAGICAPTURE).phases[1].refocusing.weight > 0
    assert mini.tune(MAGICAPTURE).composed_source > 0
    assert mini.tune(WITHOUT_COMPOSED).composed_source == mini.tune(CUSTOM_DIFFUSION).composed_source == 0
    assert mini.tune(WITHOUT_COMPOSED).phases[0] == mini.tune(MAGICAPTURE).phases[0]


@pytest.mark.parametrize("entry", BACKENDS.values(), ids=BACKENDS)
def test_a_loader_takes_the_options_of_its_entry(entry):
    parameters = inspect.signature(import_function(entry.loader)).parameters
    assert {"device", *entry.arguments, *entry.options} <= parameters.keys()


def test_choices_that_no_backend_has_are_refused():
    with pytest.raises(ValueError, match="colour: nothing to choose in backend 'mini'. It has: none."):
        load_backend("mini", colour="red")


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="backend 'maxi' is not known. Choose one of: mini"):
        load_backend("maxi")


def test_missing_weights_name_how_to_get_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no weights. Train them: python -m mcpkg.factory.train autoencoder; .*base$"
    ):
        mini.load_mini(weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="mcpkg.factory.train base --population balanced$"):
        mini.load_mini(weights=tmp_path, population="balanced")


def test_every_model_to_train_is_named(tmp_path):
    named = {command.removeprefix("python -m mcpkg.factory.train ") for command in mini.missing_weights(tmp_path)}
    assert named <= RECIPES.keys()
    assert RECIPES.keys() - named == {"autoencoder_decoder"}  # goes on from the autoencoder


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_loading_prints_nothing(name):
    code = f"from mcpkg.backends import load_backend; load_backend({name!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@torch.no_grad()
@pytest.mark.slow
def test_a_words_attention_can_be_removed(backend, generator):
    pipeline = backend.pipeline
    text = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["", "a photo of a person"])
    of_person = torch.zeros(1, text.shape[1], dtype=torch.bool).index_fill_(1, torch.tensor([5]), True)  # 0: begin
    side = backend.image_size_px // pipeline.vae_scale_factor
    latents = torch.randn(2, pipeline.unet.config.in_channels, side, side, generator=generator)
    plain = pipeline.unet(latents, 500, text).sample
    with remove_attention(pipeline.unet, of_person, torch.ones(1, 1, side, side)):
        removed = pipeline.unet(latents, 500, text).sample
    assert torch.equal(removed[0], plain[0])  # without a prompt
    assert not torch.allclose(removed[1], plain[1], atol=1e-4)
