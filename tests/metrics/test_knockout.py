import json
from dataclasses import replace
from typing import get_args

import pytest
import torch

from mcpkg.cli.portraits import InterventionName
from mcpkg.data.portraits import Portraits
from mcpkg.inference.generate import draw_batches, generate_portraits
from mcpkg.inference.sampling import Sampling
from mcpkg.method.attention_capture import find_cross_attention
from mcpkg.method.prompts import token_positions
from mcpkg.metrics.knockout import INTERVENTIONS, NEUTRAL_WORDS, knock_out
from mcpkg.metrics.knockout_results import effect_table
from mcpkg.viz.sheets import knockout_sheet
from tests.helpers.tiny_adapter import tiny_adapter
from tests.helpers.tiny_backend import DiscParser, disc, tiny_backend, tiny_portraits

SAMPLING = Sampling(n=3, seed=4, steps=2, spread=0.3)


class Face(DiscParser):
    """Reports a given mask in every image, and no face where a test says so."""

    def __init__(self, mask=None, without=()):
        self.mask, self.without, self.calls = mask, without, 0

    def parse(self, images):
        faces = super().parse(images)
        count = faces.count.clone()
        count[list(self.without)] = 0
        mask = faces.face_mask if self.mask is None else self.mask.expand_as(faces.face_mask).clone()
        return replace(faces, count=count, found=count > 0, face_mask=mask)


@pytest.fixture(scope="module")
def setting():
    """The references are the untouched portraits, the source half of them, so that both scores are high."""
    backend = tiny_backend()
    adapter = tiny_adapter(backend, vectors=2)
    drawn = generate_portraits(backend, adapter, sampling=SAMPLING).images
    half = 0.5 * drawn + 0.5 * tiny_portraits(backend, 3, seed=1).images[:1]
    source, reference = (Portraits((), images, backend.face_parser.parse(images)) for images in (half, drawn))
    return backend, adapter, source, reference


@pytest.fixture(scope="module")
def knocked_out(setting):
    return knock_out(*setting, SAMPLING)


def effect_of(knockout, role, name):
    (effect,) = (e for e in knockout.effects if (e.role, e.intervention) == (role, name))
    return effect


def test_the_command_offers_every_intervention():
    assert get_args(InterventionName) == tuple(INTERVENTIONS)


@pytest.mark.slow
def test_untouched_portraits_are_those_of_generate_and_each_intervention_changes_them(setting, knocked_out):
    backend, adapter, *_ = setting
    assert torch.equal(knocked_out.untouched.images, generate_portraits(backend, adapter, sampling=SAMPLING).images)
    assert knocked_out.images.keys() == {(role, name) for role in ("source", "reference") for name in INTERVENTIONS}
    images = [knocked_out.untouched.images, *knocked_out.images.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


@pytest.mark.slow
def test_portraits_under_an_intervention_do_not_depend_on_the_batch(setting, knocked_out):
    by_two = knock_out(*setting, SAMPLING, ["outside", "text_states"], batch_size=2)
    for key, images in by_two.images.items():
        torch.testing.assert_close(images, knocked_out.images[key], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_nothing_changes_where_the_region_is_the_whole_image(setting):
    """To the bit: outside of it there is nothing to remove, and inside is everywhere."""
    backend, adapter, source, reference = setting
    backend = replace(backend, face_parser=Face(torch.ones(1, 1, 1, 1)))
    knockout = knock_out(backend, adapter, source, reference, SAMPLING, ["outside", "inside", "everywhere"])
    assert torch.equal(knockout.images["source", "outside"], knockout.untouched.images)
    assert torch.equal(knockout.images["source", "inside"], knockout.images["source", "everywhere"])
    assert torch.equal(knockout.images["reference", "inside"], knockout.untouched.images)  # whose region is the rest
    effect = effect_of(knockout, "source", "outside")
    assert (effect.changed_face, effect.identity, effect.one_face) == (0, knockout.identity, 1)


@pytest.mark.slow
def test_text_embeddings_are_those_of_the_neutral_prompt(setting, knocked_out):
    """Both vectors of <v1> are the word "person", which is the prompt with that word written twice."""
    backend, adapter, *_ = setting
    sampling = replace(SAMPLING, plain_guidance=False)  # which depends on the adapter that is applied
    knockout = knock_out(*setting, sampling, ["text_embeddings"])
    with adapter.applied(backend):
        prompt = knockout.untouched.prompt.replace("<v1>", "person person")
        drawn = torch.cat([batch.images for batch in draw_batches(backend, None, prompt, sampling)])
    assert torch.equal(knockout.images["source", "text_embeddings"], drawn)


@pytest.mark.slow
def test_text_states_are_replaced_at_the_placeholder_only_and_embeddings_reach_later_tokens(setting):
    """What the UNet reads: untouched, then under both interventions on <v1>."""
    backend, adapter, *_ = setting
    seen = []
    first = next(iter(find_cross_attention(backend.pipeline.unet).values()))
    handle = first.to_k.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    knockout = knock_out(*setting, Sampling(n=1, steps=1), ["text_states", "text_embeddings"])
    handle.remove()
    with adapter.applied(backend):
        (where,) = token_positions(backend.pipeline.tokenizer, [knockout.untouched.prompt], "<v1>")  # n
    (untouched,), (states,), (embeddings,), *_ = seen  # n d: rows without the prompt go through the UNet as it was
    assert where.sum() == 2
    assert torch.equal((states != untouched).any(dim=-1), where)
    assert torch.equal(states[where], embeddings[where])
    assert torch.equal((embeddings != untouched).any(dim=-1), where.cumsum(dim=0) > 0)


@pytest.mark.slow
def test_the_share_is_what_is_lost_of_the_untouched_score(knocked_out):
    for effect in knocked_out.effects:
        for score, share in (("identity", effect.identity_share), ("style", effect.style_share)):
            untouched, intervened = getattr(knocked_out, score).mean, getattr(effect, score).mean
            assert share.mean == pytest.approx((untouched - intervened) / untouched, abs=1e-5)
        assert effect.causal_share == (effect.identity_share if effect.role == "source" else effect.style_share)
    for name in ("identity_share", "style_share"):  # else any formula would do
        assert max(abs(getattr(effect, name).mean) for effect in knocked_out.effects) > 1e-3


@pytest.mark.slow
def test_changed_pixels_are_counted_in_the_face_and_outside_of_it(setting, monkeypatch):
    """A pixel changes where any of its channels does by so much; the face is the disc."""
    monkeypatch.setattr("mcpkg.metrics.knockout.PLAIN_CHANGE", 0.05)
    knockout = knock_out(*setting, SAMPLING, ["text_embeddings"])
    before, after = knockout.untouched.images, knockout.images["source", "text_embeddings"]
    face, changed = disc(before)[:, 0].bool(), ((after - before).abs() >= 0.05).any(dim=1)  # 3 32 32
    effect = effect_of(knockout, "source", "text_embeddings")
    assert effect.changed_face == pytest.approx(changed[face].float().mean().item(), abs=1e-6)
    assert effect.changed_rest == pytest.approx(changed[~face].float().mean().item(), abs=1e-6)
    assert changed.any() and not changed.all()


@pytest.mark.slow
def test_a_score_near_zero_has_no_share(setting):
    """The references' own photos as source: a portrait has nothing more of the references' style than these have."""
    backend, adapter, _, reference = setting
    (effect,) = knock_out(backend, adapter, reference, reference, SAMPLING, ["inside"]).effects[1:]
    assert effect.style_share is None and effect.causal_share is None and effect.identity_share is not None


@pytest.mark.slow
def test_portraits_without_a_face_are_left_out_and_those_that_lose_it_count_as_strangers(setting):
    backend, adapter, source, reference = setting
    parsed = Face(without=[1])
    parse = parsed.parse

    def lost_later(images):
        """Untouched, portrait 1 has no face; after the intervention portrait 0 has none either."""
        parsed.calls += len(images) == SAMPLING.n
        parsed.without = [1] if parsed.calls <= 2 else [0, 1]  # knock_out and evaluate_portraits look at the first
        return parse(images)

    parsed.parse = lost_later
    knockout = knock_out(replace(backend, face_parser=parsed), adapter, source, reference, SAMPLING, ["everywhere"])
    effect = effect_of(knockout, "source", "everywhere")
    assert knockout.identity.n == effect.identity.n == 2 and effect.one_face == 0.5
    assert effect.identity.low == 0 or effect.identity.high == 0  # of two portraits, one is a stranger's


def test_without_any_face_or_with_an_unknown_name_it_is_refused(setting):
    backend, adapter, source, reference = setting
    with pytest.raises(ValueError, match=r"interventions: \['sideways'\] unknown. Choose from \['outside'"):
        knock_out(*setting, SAMPLING, ["sideways"])
    blind = replace(backend, face_parser=Face(without=[0]))
    with pytest.raises(ValueError, match=r"seeds \[4\]: no portrait shows exactly one face"):
        knock_out(blind, adapter, source, reference, replace(SAMPLING, n=1, steps=1))


@pytest.mark.slow
def test_results_are_json_a_table_and_a_sheet(setting, knocked_out):
    *_, source, reference = setting
    answer = json.loads(json.dumps(knocked_out.as_dict(), allow_nan=False))
    assert answer["seeds"] == [4, 5, 6] and answer["tokens"].keys() == {"<v1>", "<v2>"}
    for token in answer["tokens"].values():
        assert token["interventions"].keys() == set(INTERVENTIONS) and 0 <= token["leakage"]["mean"] <= 1
    first = answer["tokens"]["<v2>"]["interventions"]["everywhere"]
    assert first["causal_share"] == first["style_share"]
    lines = effect_table(knocked_out).splitlines()
    assert sum("everywhere" in line for line in lines) == 2 and sum("leakage of" in line for line in lines) == 2
    sheet = knockout_sheet(source, reference, knocked_out)
    pictures = [sum(bool(axis.images) for axis in row.axes) for row in sheet.subfigs]
    assert pictures == [3] * (3 + 2 * len(INTERVENTIONS))


@pytest.mark.slow
def test_the_backend_is_as_before_after_an_error(setting, monkeypatch):
    backend, adapter, *_ = setting
    before = generate_portraits(backend, adapter, sampling=SAMPLING).images
    monkeypatch.setitem(NEUTRAL_WORDS, "source", "xyz")
    with pytest.raises(ValueError, match="'xyz': is 3 tokens to tiny"):
        knock_out(*setting, SAMPLING, ["text_states"])
    assert torch.equal(generate_portraits(backend, adapter, sampling=SAMPLING).images, before)
