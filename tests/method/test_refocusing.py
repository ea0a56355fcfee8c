from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from mcpkg.inference.model_patching import add_placeholders_to, temporarily_patched
from mcpkg.method.attention_capture import capture_attention
from mcpkg.method.attention_losses import break_a_scene
from mcpkg.method.attention_maps import AttentionMaps
from mcpkg.method.batch import ROLES
from mcpkg.method.config import NO_REFOCUSING, REFOCUSING_FORMS, REFOCUSING_SCALES, Refocusing
from mcpkg.method.masks import role_region
from mcpkg.method.prompts import token_positions, tokenize_prompts
from mcpkg.method.refocusing import (
    attention_refocusing,
    capture_placeholders,
    refocusing_loss,
    refocusing_terms,
    scale_map,
)
from mcpkg.metrics.leakage import leakage_by_token, leakage_rows
from tests.helpers.tiny_backend import tiny_backend

# One head of 2x2 cells; the placeholder may be attended to in the left column.
MAP = torch.tensor([[[[0.4, 0.2], [0.1, 0.1]]]])
LEFT = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_scales_by_hand():
    # Divided by 0.4; (A - 0.1) / 0.3; unchanged.
    torch.testing.assert_close(scale_map(MAP, "max"), torch.tensor([[[[1.0, 0.5], [0.25, 0.25]]]]))
    torch.testing.assert_close(scale_map(MAP, "detached_minmax"), torch.tensor([[[[1.0, 1 / 3], [0.0, 0.0]]]]))
    assert scale_map(MAP, "none") is MAP
    with pytest.raises(ValueError, match="'softmax' unknown"):
        scale_map(MAP, "softmax")


@pytest.mark.parametrize(
    "scale, loss",
    [
        ("max", (0.5**2 + 0.25**2) / 2),  # the right column of the scaled map, over its two cells
        ("detached_minmax", (1 / 9 + 0) / 2),
        ("none", (0.2**2 + 0.1**2) / 2),
    ],
)
def test_refocusing_by_hand(scale, loss):
    torch.testing.assert_close(attention_refocusing(MAP, LEFT, scale), torch.tensor([loss]))


def test_attention_inside_the_mask_is_free():
    elsewhere = MAP.clone()
    elsewhere[..., 1, 0] = 0.3  # inside, and below the maximum
    assert torch.equal(attention_refocusing(MAP, LEFT), attention_refocusing(elsewhere, LEFT))
    assert attention_refocusing(MAP, torch.ones_like(LEFT)).item() == 0


def test_heads_are_scaled_each_by_itself_and_averaged():
    # The second head is the first times 1/10: the same loss under "max", so that the mean is the same too.
    both = torch.cat([MAP, 0.1 * MAP], dim=1)
    torch.testing.assert_close(attention_refocusing(both, LEFT), attention_refocusing(MAP, LEFT))


def test_a_part_smaller_than_a_cell_still_allows_its_cell():
    # On a map of one row of two cells the right half of the mask has a single pixel of sixteen.
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0, 7] = 1
    maps = torch.tensor([[[[0.0, 1.0]]]])
    assert attention_refocusing(maps, mask).item() == 0


def test_extinguishing_a_token_lowers_only_the_losses_that_can_be_cheated():
    # Slope of the loss when the whole map is multiplied by s, at s = 1. Under "detached_minmax", with min 0.1 and
    # range 0.3 held, the right column is (0.2 s - 0.1) / 0.3 and (0.1 s - 0.1) / 0.3: the slope is
    # (2 * 1/3 * 2/3 + 0) / 2 = 2/9.
    slopes = {}
    for scale in ("max", "detached_minmax", "none"):
        s = torch.ones((), requires_grad=True)
        attention_refocusing(s * MAP, LEFT, scale).backward()
        slopes[scale] = s.grad.item()
    assert slopes["max"] == pytest.approx(0, abs=1e-6)
    assert slopes["detached_minmax"] == pytest.approx(2 / 9)
    assert slopes["none"] == pytest.approx(2 * (0.2**2 + 0.1**2) / 2)


@pytest.mark.parametrize(
    "scale", ["max", "none"]
)  # "detached_minmax" is detached on purpose: not the gradient of its value
def test_gradient(scale, generator):
    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    mask = (rand(2, 1, 4, 4) > 0.5).double()
    assert gradcheck(partial(attention_refocusing, mask=mask, scale=scale), rand(2, 2, 4, 4))


@pytest.mark.parametrize("scale", REFOCUSING_SCALES)
def test_the_scale_is_that_of_eq_8(scale):
    chosen = refocusing_loss(Refocusing(form="mask", scale=scale))(MAP, LEFT)
    assert torch.equal(chosen, attention_refocusing(MAP, LEFT, scale))
    terms = refocusing_terms(captured(layer=MAP), LEFT, Refocusing(form="mask", scale=scale))
    assert torch.equal(terms, chosen)


@pytest.mark.parametrize("form", [form for form in REFOCUSING_FORMS.names if form != "mask"])
def test_the_other_forms_scale_as_they_were_published(form):
    refocusing = Refocusing(form=form)
    assert torch.equal(refocusing_loss(refocusing)(MAP, LEFT), REFOCUSING_FORMS[form](MAP, LEFT))
    terms = refocusing_terms(captured(layer=MAP), LEFT, refocusing)
    assert torch.equal(terms, REFOCUSING_FORMS[form](MAP, LEFT))
    with pytest.raises(ValueError, match=f"scale: 'detached_minmax' is for form 'mask' only; '{form}' scales as"):
        Refocusing(form=form, scale="detached_minmax")


def captured(**layers):
    """The maps of one prompt that holds the source's placeholder."""
    attention = AttentionMaps({"source": torch.tensor([[True]])})
    attention.add({"source": layers}, 0)
    return attention


def test_grids_are_averaged_and_the_layers_of_one_count_as_its_heads():
    coarse = torch.tensor([[[[0.5, 0.5]]]])  # one row of two cells: scaled 1 outside, loss 1
    fine = (0.5**2 + 0.25**2) / 2
    expected = ((fine + 0) / 2 + 1) / 2
    all_three = captured(fine=MAP, coarse=coarse, inside=MAP * LEFT)  # the last: 0 outside, loss 0
    torch.testing.assert_close(refocusing_terms(all_three, LEFT, Refocusing()), torch.tensor([expected]))
    unscaled = refocusing_terms(captured(fine=MAP, coarse=coarse), LEFT, Refocusing(scale="none"))
    torch.testing.assert_close(unscaled, torch.tensor([((0.2**2 + 0.1**2) / 2 + 0.25) / 2]))


def test_layers_of_one_grid_are_averaged_before_the_map_is_scaled():
    first, second = MAP, torch.tensor([[[[0.0, 0.2], [0.3, 0.1]]]])
    terms = refocusing_terms(captured(first=first, second=second), LEFT, Refocusing(form="break_a_scene"))
    torch.testing.assert_close(terms, break_a_scene((first + second) / 2, LEFT))
    assert not torch.allclose(terms, (break_a_scene(first, LEFT) + break_a_scene(second, LEFT)) / 2)


def test_the_sources_placeholder_is_held_to_the_face_and_the_references_to_the_rest():
    face = torch.zeros(3, 1, 4, 4)
    face[..., :2, :] = 1  # the upper half
    regions = {role: role_region(role, face) for role in ROLES}
    rows = {"source": torch.tensor([[True], [False], [True]]), "reference": torch.tensor([[False], [True], [True]])}
    upper, lower = (half.expand(2, 1, 2, 1) for half in torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2, 1))
    attention = AttentionMaps(rows)
    attention.add({"source": {"layer": upper}, "reference": {"layer": lower}}, 0)
    assert refocusing_terms(attention, face, Refocusing()).tolist() == [0, 0, 0, 0]
    assert leakage_by_token(leakage_rows(attention, regions)) == {"source": 0, "reference": 0}
    attention.add({"source": {"layer": lower}, "reference": {"layer": upper}}, 0)
    assert refocusing_terms(attention, face, Refocusing()).tolist() == [1, 1, 1, 1]
    assert leakage_by_token(leakage_rows(attention, regions)) == {"source": 1, "reference": 1}


def test_every_prompt_is_compared_with_its_own_face_the_source_first():
    # Only the first face is the left column, the other two are empty. Source in prompts 0 and 2, reference in 1.
    face = torch.cat([LEFT, torch.zeros(2, 1, 2, 2)])
    rows = {"source": torch.tensor([[True], [False], [True]]), "reference": torch.tensor([[False], [True], [False]])}
    attention = AttentionMaps(rows)
    attention.add({"source": {"layer": torch.cat([MAP * LEFT] * 2)}, "reference": {"layer": MAP}}, 0)
    # Nothing outside; the left column, 1 and 0.25 once scaled, is outside an empty face; the rest is everything.
    expected = [0, (1 + 0.25**2) / 4, 0]
    assert refocusing_terms(attention, face, Refocusing()).tolist() == pytest.approx(expected)


def test_only_the_authors_average_the_two_placeholders_of_a_composed_prompt():
    # The first prompt holds the source's placeholder, the second both.
    face = torch.cat([LEFT, LEFT])
    rows = {"source": torch.tensor([[True], [True]]), "reference": torch.tensor([[False], [True]])}
    attention = AttentionMaps(rows)
    attention.add({"source": {"layer": torch.cat([MAP, MAP])}, "reference": {"layer": MAP}}, 0)
    for form, words in (("authors", 2), ("mask", 1), ("fraction", 1)):
        loss = REFOCUSING_FORMS[form]
        inside, outside = loss(MAP, LEFT).item(), loss(MAP, 1 - LEFT).item()
        terms = refocusing_terms(attention, face, Refocusing(form=form))
        assert terms.tolist() == pytest.approx([inside, inside / words, outside / words])


@contextmanager
def with_placeholders(vectors=1):
    backend = tiny_backend()
    placeholders = {role: replace(placeholder, vectors=vectors) for role, placeholder in ROLES.items()}
    with temporarily_patched(backend):
        add_placeholders_to(backend, placeholders, torch.Generator().manual_seed(0))
        yield backend


def run_unet(backend, ids):
    rng, config = torch.Generator().manual_seed(1), backend.pipeline.unet.config
    latents = torch.randn(len(ids), config.in_channels, config.sample_size, config.sample_size, generator=rng)
    context = backend.pipeline.text_encoder(ids).last_hidden_state
    return backend.pipeline.unet(latents, torch.tensor(5), context)


def test_placeholders_are_captured_with_all_their_vectors_on_the_backends_grid_but_not_in_the_middle():
    prompts = ["a photo of <v1> person", "a photo"]
    with with_placeholders(vectors=2) as backend, torch.no_grad():
        ids, unet = tokenize_prompts(backend.pipeline.tokenizer, prompts), backend.pipeline.unet
        with capture_placeholders(backend, ids, Refocusing()) as maps:
            run_unet(backend, ids)
        where = token_positions(backend.pipeline.tokenizer, prompts, "<v1>", required=False)
        assert where.sum(dim=1).tolist() == [2, 0]
        with capture_attention(unet, {"source": where}) as every:
            run_unet(backend, ids)
    assert maps.roles == ("source",) and maps.rows["source"].tolist() == [True, False]
    size = backend.attention_size
    chosen = [
        name for name in every.layers if not name.startswith("mid") and every.maps["source"][name].shape[-1] == size
    ]
    assert list(maps.layers) == chosen and 0 < len(chosen) < len(every.layers)
    for name in chosen:
        assert torch.equal(maps.maps["source"][name], every.maps["source"][name])


def test_nothing_is_captured_without_a_placeholder_or_without_refocusing():
    with with_placeholders() as backend:
        tokenizer = backend.pipeline.tokenizer
        plain = tokenize_prompts(tokenizer, ["a photo of a person"] * 2)
        with capture_placeholders(backend, plain, Refocusing()) as maps:
            assert maps is None
        learned = tokenize_prompts(tokenizer, ["a photo of <v1> person"] * 2)
        with capture_placeholders(backend, learned, NO_REFOCUSING) as maps:
            assert maps is None


def test_placeholders_that_were_never_added_are_named():
    with pytest.raises(ValueError, match="<v1>: not a token of this tokenizer"):
        capture_placeholders(tiny_backend(), torch.zeros(1, 20, dtype=torch.long), Refocusing())


def test_the_authors_form_compares_with_masks_that_have_a_floor():
    """As in their code: (mask + floor) / (1 + floor) of each image's own mask, which in a composed prompt is that of
    the reference, and what it leaves is the source's."""
    positions = {
        "source": torch.tensor([[True, False], [False, False], [True, False]]),
        "reference": torch.tensor([[False, False], [False, True], [False, True]]),
    }
    maps = AttentionMaps(positions)
    flat = torch.full((2, 1, 2, 2), 0.25)  # without a range: 0 everywhere once its minimum is taken off
    maps.add({"source": {"layer": flat}, "reference": {"layer": flat}}, 0)
    terms = refocusing_terms(maps, LEFT.expand(3, 1, 2, 2), Refocusing(form="authors"), floor=0.25)
    # Half of the cells are inside. Inside, the map is set to 1; outside it is 0.
    # Own mask: wanted are 1 inside and 0.2 outside: (0 + 0.04) / 2. Source in a composed prompt: 1 - 0.2 inside and 0
    # outside: (0.04 + 0) / 2. The two words of a composed prompt are averaged.
    by_hand = [0.02, 0.02 / 2, 0.02, 0.02 / 2]
    assert terms.tolist() == pytest.approx(by_hand)
    plain = refocusing_terms(maps, LEFT.expand(3, 1, 2, 2), Refocusing(form="authors"))
    assert plain.tolist() == [0, 0, 0, 0]
