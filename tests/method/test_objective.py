from dataclasses import replace
from functools import partial

import pytest
import torch

from mcpkg.inference.model_patching import add_placeholders_to, temporarily_patched
from mcpkg.method import objective
from mcpkg.method.batch import ROLES
from mcpkg.method.config import NO_REFOCUSING, REFOCUSING_FORMS, REFOCUSING_SCALES, LossWeights, Refocusing
from mcpkg.method.diffusion import add_noise, min_snr_weight, velocity_weight
from mcpkg.method.masks import role_region
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.objective import training_loss, weighted_sum
from mcpkg.method.prompts import draw_prompts
from mcpkg.method.templates import TEMPLATE_SETS, TEMPLATES
from mcpkg.training.dataset import draw_batch, encode_dataset, source_identity
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits

METHOD = replace(MAGICAPTURE, samples_per_task=2, identity_max_timestep=1.0)
PHASE = METHOD.phases[1]
IDENTITY_ONLY = replace(
    PHASE, weights=LossWeights(source=0.0, reference=0.0, composed=0.0, identity=1.0), refocusing=NO_REFOCUSING
)
WITHOUT_IDENTITY = replace(PHASE, weights=replace(PHASE.weights, identity=0.0))


class Objective:
    """What one batch's loss is computed from, with the random streams set anew each time."""

    def __init__(self, backend):
        self.backend, rng = backend, torch.Generator().manual_seed(0)
        source, reference = tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 3, seed=2)
        self.dataset = encode_dataset(backend, source, reference, METHOD, rng)
        self.target = source_identity(backend, source)
        add_placeholders_to(backend, ROLES, rng)

    def __call__(self, phase=PHASE, method=METHOD, seed=3):
        rng = torch.Generator().manual_seed(seed)
        self.batch = draw_batch(self.dataset, phase.tasks, method, rng)
        return training_loss(self.backend, method, phase, self.batch, self.target, rng)


@pytest.fixture
def compute():
    backend = tiny_backend()
    with temporarily_patched(backend):
        yield Objective(backend)


def test_a_batch_draws_images_then_prompts_then_noise_from_one_stream(compute, monkeypatch):
    seen = []

    def watched(latents, scheduler, rng, bound):
        seen.append(rng.get_state())
        return add_noise(latents, scheduler, rng, bound)

    monkeypatch.setattr(objective, "add_noise", watched)
    with torch.no_grad():
        compute(seed=11)
    rng = torch.Generator().manual_seed(11)
    order = [torch.randperm(3, generator=rng)[:2] for _ in PHASE.tasks]
    prompts = draw_prompts(["source"] * 2 + ["reference"] * 2 + ["composed"] * 2, rng)
    images = [compute.dataset[task][chosen] for task, chosen in zip(PHASE.tasks, order, strict=True)]
    for name in ("latents", "mask", "face", "landmarks"):
        assert torch.equal(getattr(compute.batch.images, name), torch.cat([getattr(part, name) for part in images]))
    assert compute.batch.tasks == ("source", "source", "reference", "reference", "composed", "composed")
    assert compute.batch.prompts == tuple(prompts)
    assert len(seen) == 1 and torch.equal(seen[0], rng.get_state())


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
    assert (outcome.faces.identity_images, outcome.faces.no_face_images) == (2, 0)


@pytest.mark.parametrize(
    "changes, weight",
    [
        ({"weighting": "velocity"}, velocity_weight),
        ({"weighting": "min_snr", "min_snr_gamma": 2.0}, partial(min_snr_weight, gamma=2.0)),
    ],
    ids=["velocity", "min_snr"],
)
def test_noise_levels_count_as_asked(compute, monkeypatch, changes, weight):
    def at_two_levels(latents, scheduler, rng, bound):
        noise, t = latents.flip(-1), torch.tensor([100, 900] * 3)
        return scheduler.add_noise(latents, noise, t), noise, t

    monkeypatch.setattr(objective, "add_noise", at_two_levels)
    with torch.no_grad():
        plain, weighted = (compute(WITHOUT_IDENTITY, replace(METHOD, **given)).terms for given in ({}, changes))
    wanted = weight(torch.tensor([100, 900]), compute.backend.pipeline.scheduler)
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
    together = compute(WITHOUT_IDENTITY, method).loss
    alone = [compute(replace(WITHOUT_IDENTITY, tasks=(task,)), method, seed=5).loss for task in PHASE.tasks]
    torch.testing.assert_close(sum(alone), together, rtol=1e-4, atol=0)


def test_weights_weigh(compute):
    with torch.no_grad():
        weights = LossWeights(source=3.0, reference=0.0, composed=0.5, identity=2.0)
        heavy = compute(replace(PHASE, weights=weights, refocusing=Refocusing(weight=0.25)))
    mean = {name: values.mean().item() for name, values in heavy.terms.items()}
    # Refocusing is a sum over placeholders, a mean over the two samples of a task: 8 values over 2.
    expected = 3 * mean["source"] + 0.5 * mean["composed"] + 0.25 * 8 / 2 * mean["refocusing"] + 2 * mean["identity"]
    assert heavy.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_weighted_sum_by_hand():
    # Two samples per task, so tasks and refocusing are divided by 2, identity by the number of images it judged.
    terms = {
        "source": torch.tensor([1.0, 3.0]),  # mean 2, weight 0.5: 1
        "composed": torch.tensor([1.0, 0.0]),  # mean 0.5, weight 2: 1
        "refocusing": torch.tensor([0.1, 0.2, 0.3]),  # 0.6 / 2, weight 10: 3
        "identity": torch.tensor([0.7]),  # weight 3: 2.1
    }
    weights = LossWeights(source=0.5, composed=2.0, identity=3.0)
    phase = replace(PHASE, weights=weights, refocusing=Refocusing(weight=10.0))
    assert weighted_sum(terms, phase, samples_per_task=2).item() == pytest.approx(7.1)
    terms["identity"] = torch.zeros(0)  # no image judged: not a mean over nothing
    assert weighted_sum(terms, phase, samples_per_task=2).item() == pytest.approx(5.0)


def test_the_identity_gradient_reaches_the_unet_through_tweedie_and_decoder(compute):
    weights = dict(compute.backend.pipeline.unet.requires_grad_(True).named_parameters())
    before = compute(IDENTITY_ONLY).loss
    before.backward()
    assert all(weights[name].grad.abs().sum() > 0 for name in ("conv_in.weight", "conv_out.weight"))
    assert any("attn2.to_k" in name and weight.grad.abs().sum() > 0 for name, weight in weights.items())
    assert all(p.grad is None for p in compute.backend.pipeline.vae.parameters())
    with torch.no_grad():  # a small step against it brings the face closer
        length = sum(weight.grad.square().sum() for weight in weights.values()) ** 0.5
        for weight in weights.values():
            weight -= 0.01 * weight.grad / length
        assert compute(IDENTITY_ONLY).loss < before


def test_an_image_without_a_face_is_counted_and_moves_nothing(compute):
    parse = compute.backend.face_parser.parse

    class SeesTheFirst:
        def parse(self, images):
            faces = parse(images)
            return replace(faces, found=torch.arange(len(images)) == 0)

    compute.backend.face_parser = SeesTheFirst()
    outcome = compute(IDENTITY_ONLY)
    assert outcome.maps is None  # refocusing is off: nothing is captured
    assert (outcome.faces.identity_images, outcome.faces.no_face_images) == (2, 1)
    assert len(outcome.terms["identity"]) == 1
    torch.testing.assert_close(outcome.loss, outcome.terms["identity"][0])  # not halved by a silent zero


def test_identity_is_asked_below_its_highest_timestep_only(compute):
    outcome = compute(method=replace(METHOD, identity_max_timestep=1e-6))
    assert outcome.faces.identity_images == len(outcome.terms["identity"]) == 0
    assert outcome.loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("form", REFOCUSING_FORMS.names)
def test_every_form_of_refocusing_trains_queries_and_keys(compute, form):
    weights = dict(compute.backend.pipeline.unet.requires_grad_(True).named_parameters())
    outcome = compute(replace(WITHOUT_IDENTITY, refocusing=Refocusing(form=form)))
    refocusing = outcome.terms["refocusing"]
    assert refocusing.isfinite().all() and (refocusing >= -1).all()
    refocusing.sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in weights.values())
    assert any("attn2.to_q" in name and w.grad is not None and w.grad.abs().sum() > 0 for name, w in weights.items())
    assert any("attn2.to_k" in name and w.grad is not None and w.grad.abs().sum() > 0 for name, w in weights.items())
    # <v1> stands in the prompts of the source and composed samples, <v2> in those of the reference and composed ones.
    for role, samples, terms in (("source", [0, 1, 4, 5], refocusing[:4]), ("reference", [2, 3, 4, 5], refocusing[4:])):
        (layers,) = outcome.maps.by_grid(role).values()  # one grid, one step
        region = role_region(role, compute.batch.images.face[samples])
        words = torch.tensor([1, 1, 2, 2]) if form == "authors" else 1  # it averages the two of a composed prompt
        torch.testing.assert_close(terms, REFOCUSING_FORMS[form](layers[:, 0], region) / words)


def test_the_scale_of_refocusing_is_the_phases(compute):
    with torch.no_grad():
        scales = [compute(replace(PHASE, refocusing=Refocusing(scale=scale))) for scale in REFOCUSING_SCALES]
    losses = [outcome.terms["refocusing"].mean().item() for outcome in scales]
    assert len(set(losses)) == len(REFOCUSING_SCALES) == 3


def test_the_prior_counts_the_whole_image_at_its_own_weight(compute):
    images = compute.dataset["reference"]
    compute.dataset["prior"] = replace(images, mask=torch.ones_like(images.mask))
    phase = replace(PHASE, tasks=("prior",), weights=LossWeights(prior=0.5, identity=0.0))
    with torch.no_grad():
        outcome = compute(phase)
        compute.dataset["prior"] = images  # outside the face only
        masked = compute(phase)
    assert outcome.maps is None  # its prompt holds no placeholder, though the phase has refocusing
    assert outcome.loss.item() == pytest.approx(0.5 * outcome.terms["prior"].mean().item())
    assert not torch.equal(outcome.terms["prior"], masked.terms["prior"])


def test_one_task_a_pass_draws_each_as_often(compute):
    method = replace(METHOD, one_task=True)
    with torch.no_grad():
        outcome = compute(WITHOUT_IDENTITY, method)
    (task,) = set(compute.batch.tasks)
    assert set(outcome.terms) == {task, "refocusing"} and len(outcome.terms[task]) == 2
    rng = torch.Generator().manual_seed(0)
    drawn = [draw_batch(compute.dataset, PHASE.tasks, method, rng).tasks[0] for _ in range(300)]
    assert all(80 <= drawn.count(task) <= 120 for task in PHASE.tasks)  # 100 each, with a deviation of 8


def test_the_identity_loss_of_a_pass_without_a_judged_task_is_absent(compute):
    phase = replace(PHASE, tasks=("source", "composed"))
    method, seen = replace(METHOD, one_task=True), set()
    for seed in range(8):
        with torch.no_grad():
            outcome = compute(phase, method, seed)
        seen |= {compute.batch.tasks[0]}
        assert outcome.faces.identity_images == (2 if compute.batch.tasks[0] == "composed" else 0)
        assert outcome.loss.isfinite()
    assert seen == {"source", "composed"}


def test_identity_can_be_asked_of_source_samples_too(compute):
    with torch.no_grad():
        outcome = compute(method=replace(METHOD, identity_tasks=("composed", "source")))
    assert len(outcome.terms["identity"]) == 2 + 2


def test_the_identity_loss_can_have_a_pass_of_its_own_below_its_highest_timestep(compute):
    seen = []
    handle = compute.backend.pipeline.unet.register_forward_hook(lambda *args: seen.append(args[1][1]))
    with torch.no_grad():
        compute(method=replace(METHOD, identity_max_timestep=0.02))
        outcome = compute(method=replace(METHOD, identity_max_timestep=0.02, identity_pass="own"))
        without = compute(WITHOUT_IDENTITY, replace(METHOD, identity_pass="own"))
    handle.remove()
    assert [len(t) for t in seen] == [6, 6, 6, 6]  # one pass, two passes, one pass
    assert torch.equal(seen[0], seen[1]) and seen[1].max() > 20  # T' is 0.02 of 1000 timesteps
    assert seen[2].max() < 20
    assert outcome.faces.identity_images == 2
    for name in ("source", "reference", "composed", "refocusing"):  # of the first pass, as without the second
        assert torch.equal(outcome.terms[name], without.terms[name])


def test_a_mask_floor_reaches_reconstruction_and_the_authors_refocusing(compute):
    phase = replace(WITHOUT_IDENTITY, refocusing=Refocusing(form="authors"))
    with torch.no_grad():
        plain, lifted = (compute(phase, replace(METHOD, mask_floor=floor)).terms for floor in (0.0, 0.5))
    assert all(not torch.equal(plain[name], lifted[name]) for name in plain)


def test_prompts_are_those_of_the_methods_set(compute):
    with torch.no_grad():
        compute(WITHOUT_IDENTITY, replace(METHOD, templates="varied"))
    known = {
        text.format(source="<v1>", reference="<v2>") for texts in TEMPLATE_SETS["varied"].values() for text in texts
    }
    assert set(compute.batch.prompts) <= known
