from dataclasses import replace

import pytest
import torch

import mcpkg.method.attention_losses  # noqa: F401
from mcpkg.inference.model_patching import add_placeholders_to, temporarily_patched
from mcpkg.method import objective
from mcpkg.method.attention_maps import MapStore
from mcpkg.method.batch import ROLES, Concept
from mcpkg.method.config import MAGICAPTURE, REFOCUSING_FORMS, LossWeights
from mcpkg.method.diffusion import velocity_weight
from mcpkg.method.objective import training_loss
from mcpkg.method.prompts import TEMPLATES, draw_prompts, token_positions, tokenize_prompts
from mcpkg.method.refocusing import (
    FORMS,
    capture_words,
    mean_over_grids,
    refocusing_terms,
    word_positions,
    word_regions,
)
from mcpkg.metrics.leakage import leakage_by_token, leakage_rows
from mcpkg.training.dataset import draw_batch, encode_dataset, source_identity
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

METHOD = replace(MAGICAPTURE, samples_per_task=2, identity_max_timestep=1.0)
PHASE = METHOD.phases[1]
IDENTITY_ONLY = LossWeights(source=0.0, reference=0.0, composed=0.0, refocusing=0.0, identity=1.0)


class Objective:
    """What one batch's loss is computed from, with the random streams set anew each time."""

    def __init__(self, backend):
        self.backend, rng = backend, torch.Generator().manual_seed(0)
        source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 3, seed=2)
        self.concepts = encode_dataset(backend, source, reference, METHOD, rng)
        self.target = source_identity(backend, source)
        add_placeholders_to(backend, ROLES, rng)

    def __call__(self, phase=PHASE, method=METHOD, seed=3):
        rng = torch.Generator().manual_seed(seed)
        self.batch = draw_batch(self.concepts, phase.tasks, method.samples_per_task, rng)
        self.prompts = draw_prompts([task for task in phase.tasks for _ in range(method.samples_per_task)], rng)
        return training_loss(self.backend, method, phase, self.batch, self.prompts, self.target, rng)


@pytest.fixture
def compute():
    backend = tiny_backend()
    with temporarily_patched(backend):
        yield Objective(backend)


def with_weights(**weights):
    return replace(PHASE, weights=replace(PHASE.weights, **weights))


def test_all_tasks_go_through_the_unet_in_one_forward(compute):
    seen = []
    with torch.no_grad():
        handle = compute.backend.pipeline.unet.register_forward_hook(lambda *args: seen.append(len(args[1][0])))
        outcome = compute()
        handle.remove()
    assert seen == [3 * 2]
    assert {name: len(values) for name, values in outcome.terms.items()} == {
        "source": 2, "reference": 2, "composed": 2, "refocusing": 2 + 2 + 4, "identity": 2,
    }  # fmt: skip
    assert (outcome.identity_images, outcome.no_face_images) == (2, 0)


def test_noise_levels_count_as_velocity_if_asked(compute, monkeypatch):
    def at_two_levels(latents, scheduler, rng, bound):
        noise, t = latents.flip(-1), torch.tensor([100, 900] * 3)
        return scheduler.add_noise(latents, noise, t), noise, t

    monkeypatch.setattr(objective, "add_noise", at_two_levels)
    phase = replace(PHASE, weights=replace(PHASE.weights, identity=0.0))
    with torch.no_grad():
        plain, weighted = (compute(phase, replace(METHOD, weighting=name)).terms for name in ("epsilon", "velocity"))
    wanted = velocity_weight(torch.tensor([100, 900]), compute.backend.pipeline.scheduler)
    for task in PHASE.tasks:
        torch.testing.assert_close(weighted[task] / plain[task], wanted)
    torch.testing.assert_close(weighted["refocusing"], plain["refocusing"])


def test_the_objective_is_the_sum_of_its_tasks(compute, monkeypatch):
    def same_noise(latents, scheduler, rng, bound):  # whatever else is in the batch
        noise, t = latents.flip(-1), torch.full((len(latents),), 200)
        return scheduler.add_noise(latents, noise, t), noise, t

    monkeypatch.setattr(objective, "add_noise", same_noise)
    monkeypatch.setitem(TEMPLATES, "composed", TEMPLATES["composed"][:1])
    method = replace(METHOD, samples_per_task=3)  # every image, in some order: a mean does not see which
    weights = replace(PHASE.weights, identity=0.0)
    together = compute(replace(PHASE, weights=weights), method).loss
    alone = [compute(replace(PHASE, tasks=(task,), weights=weights), method, seed=5).loss for task in PHASE.tasks]
    torch.testing.assert_close(sum(alone), together, rtol=1e-4, atol=0)


def test_weights_weigh(compute):
    with torch.no_grad():
        heavy = compute(with_weights(source=3.0, reference=0.0, composed=0.5, refocusing=0.25, identity=2.0))
    mean = {name: values.mean().item() for name, values in heavy.terms.items()}
    # Refocusing is a sum over words, a mean over the two samples of a task: 8 values over 2.
    expected = 3 * mean["source"] + 0.5 * mean["composed"] + 0.25 * 8 / 2 * mean["refocusing"] + 2 * mean["identity"]
    assert heavy.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_identity_gradient_reaches_the_unet_through_tweedie_and_decoder(compute):
    phase = replace(PHASE, weights=IDENTITY_ONLY)
    weights = dict(compute.backend.pipeline.unet.requires_grad_(True).named_parameters())
    before = compute(phase).loss
    before.backward()
    assert all(weights[name].grad.abs().sum() > 0 for name in ("conv_in.weight", "conv_out.weight"))
    assert any("attn2.to_k" in name and weight.grad.abs().sum() > 0 for name, weight in weights.items())
    assert all(p.grad is None for p in compute.backend.pipeline.vae.parameters())
    with torch.no_grad():  # a small step against it brings the face closer
        length = sum(weight.grad.square().sum() for weight in weights.values()) ** 0.5
        for weight in weights.values():
            weight -= 0.01 * weight.grad / length
        assert compute(phase).loss < before


def test_an_image_without_a_face_is_counted_and_moves_nothing(compute):
    parse = compute.backend.face_parser.parse

    class SeesTheFirst:
        def parse(self, images):
            faces = parse(images)
            return replace(faces, found=torch.arange(len(images)) == 0)

    compute.backend.face_parser = SeesTheFirst()
    outcome = compute(replace(PHASE, weights=IDENTITY_ONLY))
    assert (outcome.identity_images, outcome.no_face_images) == (2, 1)
    assert len(outcome.terms["identity"]) == 1
    torch.testing.assert_close(outcome.loss, outcome.terms["identity"][0])  # not halved by a silent zero


def test_identity_is_asked_below_its_highest_timestep_only(compute):
    outcome = compute(method=replace(METHOD, identity_max_timestep=1e-6))
    assert outcome.identity_images == len(outcome.terms["identity"]) == 0
    assert outcome.loss.isfinite()


def test_the_source_word_is_held_to_the_face_and_the_reference_word_to_the_rest():
    face = torch.zeros(3, 1, 4, 4)
    face[..., :2, :] = 1  # the upper half
    batch = Concept(torch.zeros(3, 1, 4, 4), face, face, torch.zeros(3, 5, 2))
    rows = {"source": torch.tensor([[True], [False], [True]]), "reference": torch.tensor([[False], [True], [True]])}
    upper, lower = (half.expand(2, 1, 2, 1) for half in torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2, 1))
    store = MapStore(rows, None, "last")
    store.add({"source": [("layer", upper)], "reference": [("layer", lower)]}, 0)
    assert refocusing_terms(store, batch, METHOD, LossWeights()).tolist() == [0, 0, 0, 0]
    assert leakage_by_token(leakage_rows(store, word_regions(batch))) == {"source": 0, "reference": 0}
    store.add({"source": [("layer", lower)], "reference": [("layer", upper)]}, 0)
    assert refocusing_terms(store, batch, METHOD, LossWeights()).tolist() == [1, 1, 1, 1]
    assert leakage_by_token(leakage_rows(store, word_regions(batch))) == {"source": 1, "reference": 1}


@pytest.mark.parametrize("form", REFOCUSING_FORMS)
def test_every_form_of_refocusing_trains_queries_and_keys(compute, form):
    weights = dict(compute.backend.pipeline.unet.requires_grad_(True).named_parameters())
    outcome = compute(with_weights(refocusing_form=form, identity=0.0))
    outcome.terms["refocusing"].sum().backward()
    assert any("attn2.to_q" in name and w.grad is not None and w.grad.abs().sum() > 0 for name, w in weights.items())
    of_source = mean_over_grids(FORMS[form], outcome.maps.maps["source"], compute.batch.face[[0, 1, 4, 5]])
    torch.testing.assert_close(outcome.terms["refocusing"][:4], of_source)


def test_the_scale_of_refocusing_is_the_methods(compute):
    with torch.no_grad():
        scales = {scale: compute(method=replace(METHOD, refocusing_scale=scale)) for scale in ("max", "minmax", "none")}
    losses = [outcome.terms["refocusing"].mean().item() for outcome in scales.values()]
    assert len(set(losses)) == 3


def test_a_batch_without_a_word_is_not_captured(compute):
    ids = tokenize_prompts(compute.backend.pipeline.tokenizer, ["a photo of a person"] * 2)
    with capture_words(compute.backend, ids, METHOD, LossWeights()) as maps:
        assert maps is None


def test_words_are_found_with_all_their_vectors_and_missed_if_never_added():
    backend, rng = tiny_backend(), torch.Generator()
    with pytest.raises(ValueError, match="<v1>: not a word of this model with 2 vectors"):
        word_positions(backend, torch.zeros(1, 20, dtype=torch.long), vectors=2)
    with temporarily_patched(backend):
        add_placeholders_to(backend, {role: replace(word, vectors=2) for role, word in ROLES.items()}, rng)
        tokenizer = backend.pipeline.tokenizer
        prompts = ["a photo of <v1> person", "a photo"]
        ids = tokenize_prompts(tokenizer, prompts)
        positions = word_positions(backend, ids, vectors=2)
        assert positions.keys() == {"source"}
        assert torch.equal(positions["source"], token_positions(tokenizer, prompts, "<v1>", required=False))
        assert positions["source"].sum(dim=1).tolist() == [2, 0]


def test_the_prior_counts_the_whole_image_at_its_own_weight(compute):
    images = compute.concepts["reference"]
    compute.concepts["prior"] = replace(images, mask=torch.ones_like(images.mask))
    phase = replace(PHASE, tasks=("prior",), weights=LossWeights(prior=0.5, refocusing=0.0, identity=0.0))
    with torch.no_grad():
        outcome = compute(phase)
        compute.concepts["prior"] = images  # outside the face only
        masked = compute(phase)
    assert outcome.loss.item() == pytest.approx(0.5 * outcome.terms["prior"].mean().item())
    assert not torch.equal(outcome.terms["prior"], masked.terms["prior"])
