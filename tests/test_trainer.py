from dataclasses import replace

import pytest
import torch

from mcpkg.config import CUSTOM_DIFFUSION, DREAMBOOTH, MAGICAPTURE, WITHOUT_REFOCUSING, LossWeights
from mcpkg.concepts import draw_batch, encode_concepts
from mcpkg.objective import jitter_landmarks, weighted_sum
from mcpkg.trainer import personalise
from tests.tiny_backend import LANDMARKS, tiny_backend, tiny_portraits


def short(method, steps=3, **changes):
    """The method cut to a few quick steps."""
    phases = tuple(replace(phase, steps=steps, learning_rate=1e-2, embedding_learning_rate=1e-2) for phase in method.phases)
    return replace(method, phases=phases, samples_per_task=2, accumulation_steps=1, **changes)


def weights_of(backend):
    pipeline = backend.pipeline
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def train(method, seed=0, **options):
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)
    return backend, personalise(backend, source, reference, method, seed, progress=False, **options)


@pytest.mark.parametrize("method", [MAGICAPTURE, CUSTOM_DIFFUSION, DREAMBOOTH], ids=lambda method: method.name)
def test_the_backend_is_as_before(method):
    before = weights_of(tiny_backend())
    backend, _ = train(short(method))
    after = weights_of(backend)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "<v1>" not in backend.pipeline.tokenizer.get_vocab()
    assert all(parameter.requires_grad for parameter in backend.pipeline.unet.parameters())


def test_the_backend_is_as_before_after_an_error():
    before = weights_of(tiny_backend())
    backend = tiny_backend()
    portraits = tiny_portraits(backend)

    def fail(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        personalise(backend, portraits, portraits, short(MAGICAPTURE), on_step=fail, progress=False)
    after = weights_of(backend)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_adapter_to_the_bit():
    _, first = train(short(MAGICAPTURE), seed=3)
    torch.rand(7)  # torch's global state plays no part
    _, again = train(short(MAGICAPTURE), seed=3)
    _, other = train(short(MAGICAPTURE), seed=4)
    assert all(torch.equal(first.lora[name], again.lora[name]) for name in first.lora)
    assert all(torch.equal(first.embeddings[token], again.embeddings[token]) for token in ("<v1>", "<v2>"))
    assert not torch.equal(first.embeddings["<v1>"], other.embeddings["<v1>"])


def test_each_phase_trains_what_it_names():
    backend, adapter = train(short(MAGICAPTURE))
    ups = [tensor for name, tensor in adapter.lora.items() if "lora_B" in name]
    assert ups and all(tensor.abs().sum() > 0 for tensor in ups)
    assert all("attn2" in name for name in adapter.lora)
    assert not adapter.deltas

    words_only = replace(short(MAGICAPTURE), phases=short(MAGICAPTURE).phases[:1])
    _, adapter = train(words_only)
    assert not adapter.lora

    _, adapter = train(short(CUSTOM_DIFFUSION))
    assert adapter.deltas and all(".attn2.to_k." in name or ".attn2.to_v." in name for name in adapter.deltas)
    assert all(delta.abs().sum() > 0 for delta in adapter.deltas.values())


def test_reports_name_the_terms_of_each_phase():
    reports = []
    train(short(MAGICAPTURE, steps=8, identity_max_timestep=1.0, identity_every=2), on_step=reports.append)
    assert [report.step for report in reports] == [*range(8), *range(8)]
    assert set(reports[0].terms) == {"source", "reference"}
    first, second = reports[8:10]
    assert set(first.terms) == {"source", "reference", "composed", "refocusing", "identity"}
    assert set(second.terms) == {"source", "reference", "composed", "refocusing"}


def test_a_term_of_weight_zero_is_not_computed():
    reports = []
    train(short(WITHOUT_REFOCUSING), on_step=reports.append)
    assert all("refocusing" not in report.terms for report in reports)


def test_faceless_predictions_are_counted_and_left_out():
    backend = tiny_backend()
    portraits = tiny_portraits(backend)

    class Blind(type(backend.face_parser)):
        def parse(self, images):
            faces = super().parse(images)
            return replace(faces, found=torch.zeros_like(faces.found))

    backend.face_parser = Blind()
    reports = []
    method = short(MAGICAPTURE, identity_max_timestep=1.0)
    adapter = personalise(backend, portraits, portraits, method, on_step=reports.append, progress=False)
    assert all("identity" not in report.terms for report in reports)
    assert adapter.record["faceless_images"] == adapter.record["identity_images"] == 3 * 2


def test_losses_fall():
    method = short(MAGICAPTURE, steps=60)
    reports = []
    train(replace(method, phases=method.phases[1:]), on_step=reports.append)
    early, late = (sum(report.loss for report in part) for part in (reports[:15], reports[-15:]))
    assert late < early


def test_bf16_trains_and_other_precisions_are_refused():
    train(short(MAGICAPTURE, steps=1), precision="bf16")
    with pytest.raises(ValueError, match="precision: 'fp8' unknown"):
        train(short(MAGICAPTURE, steps=1), precision="fp8")


def test_a_loss_that_is_not_finite_stops_training():
    method = short(MAGICAPTURE, steps=40)
    wild = replace(method, phases=tuple(replace(p, embedding_learning_rate=1e30) for p in method.phases), gradient_clip=1e30)
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        train(wild)


def test_composed_pseudo_labels_are_the_reference_images(generator):
    backend = tiny_backend()
    source, reference = tiny_portraits(backend, 3), tiny_portraits(backend, 2, seed=5)
    concepts = encode_concepts(backend, source, reference, MAGICAPTURE, generator)
    assert torch.equal(concepts["composed"].latents, concepts["reference"].latents)
    assert concepts["source"].latents.shape == (3, 5, 8, 8)
    # Source counts inside the face, reference outside it: together they cover everything.
    assert torch.allclose(concepts["source"].mask[:2] + concepts["reference"].mask, torch.ones(2, 1, 8, 8))
    unmasked = encode_concepts(backend, source, reference, replace(MAGICAPTURE, masked=False), generator)
    assert (unmasked["source"].mask == 1).all()


def test_a_batch_shows_no_image_twice_before_each_was_shown(generator):
    backend = tiny_backend()
    portraits = tiny_portraits(backend, 3)
    concepts = encode_concepts(backend, portraits, portraits, MAGICAPTURE, generator)
    batch = draw_batch(concepts, ("source", "composed"), 3, generator)
    assert len(batch.latents.unique(dim=0)) == 3
    assert len(batch.latents) == 6


def test_the_sum_is_over_tasks_of_means_over_samples():
    terms = {"source": torch.tensor([1.0, 3.0]), "identity": torch.tensor([0.5]), "refocusing": torch.tensor([1.0, 1.0, 2.0, 4.0])}
    # (1 + 3) / 2 + 10 * 0.5 / 1 + 2 * (1 + 1 + 2 + 4) / 2 = 2 + 5 + 8
    assert weighted_sum(terms, LossWeights(refocusing=2.0, identity=10.0), 2).item() == 15.0


def test_jitter_keeps_the_shape_of_a_face(generator):
    faces = LANDMARKS.expand(50, -1, -1)
    moved = jitter_landmarks(faces, generator)
    eyes, mouth = (lambda points, i: (points[:, i] - points[:, i + 1]).norm(dim=1)), 3
    assert torch.allclose(eyes(moved, 0) / eyes(moved, mouth), eyes(faces, 0) / eyes(faces, mouth), atol=1e-4)
    assert 0 < (moved - faces).abs().mean() < 0.02
