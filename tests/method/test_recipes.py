import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mcpkg.inference.sampling import Sampling
from mcpkg.method.config import LossWeights, Method, Phase, Refocusing
from mcpkg.method.methods import DREAMBOOTH, MAGICAPTURE, METHODS, ONE_PHASE, WITHOUT_IDENTITY, WITHOUT_REFOCUSING
from mcpkg.method.recipes import AUTHORS, COLAB, PAPER, RECIPES, SHORT
from mcpkg.training.trainer import personalise, weights_at
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_papers_recipe_changes_nothing():
    assert all(PAPER.apply(method) == method for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_colab_shows_one_sample_a_step_and_leaves_steps_rates_and_weights(method):
    suited = COLAB.apply(method)
    assert (suited.one_task, suited.samples_per_task, suited.accumulation_steps) == (True, 1, 1)
    assert (suited.phases, suited.name) == (method.phases, method.name)


def test_the_short_recipe_scales_steps_and_rates_of_every_phase():
    words, joint = SHORT.apply(MAGICAPTURE).phases
    assert (words.steps, joint.steps) == (420, 525)  # 0.35 of 1200 and 1500
    assert (words.embedding_learning_rate, joint.learning_rate) == (1e-3, 2e-4)
    empty = replace(MAGICAPTURE, phases=tuple(replace(phase, steps=0) for phase in MAGICAPTURE.phases))
    assert [phase.steps for phase in SHORT.apply(empty).phases] == [0, 0]


def test_the_authors_recipe_keeps_an_ablation_an_ablation():
    assert AUTHORS.apply(WITHOUT_REFOCUSING).phases[1].refocusing.weight == 0
    assert AUTHORS.apply(WITHOUT_IDENTITY).phases[1].weights.identity == 0
    assert AUTHORS.apply(MAGICAPTURE).phases[1].weights.identity == 0.25
    assert [phase.learning_rate for phase in AUTHORS.apply(ONE_PHASE).phases] == [4e-4]
    with pytest.raises(ValueError, match="recipe: .*DreamBooth trains no LoRA"):
        AUTHORS.apply(DREAMBOOTH)


def test_every_recipe_draws_with_settings_that_there_are():
    for recipe in RECIPES.values():
        Sampling(**recipe.sampling)


def changed_fields(recipe):
    before, after = MAGICAPTURE, recipe.apply(MAGICAPTURE)
    pairs = [(before, after), *zip(before.phases, after.phases, strict=True)]
    pairs += [(a.weights, b.weights) for a, b in pairs[1:]] + [(a.refocusing, b.refocusing) for a, b in pairs[1:]]
    changed = {f.name for a, b in pairs for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}
    return changed - {"phases", "weights", "refocusing"} | set(recipe.sampling)


def test_the_table_of_differences_names_every_field_that_the_authors_recipe_changes():
    section = README.partition("### Where the authors' code leaves the paper")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)", "\n".join(line.split("|")[-2] for line in section.splitlines() if "|" in line)))
    known = {f.name for cls in (Method, Phase, LossWeights, Refocusing, Sampling) for f in fields(cls)}
    assert named - known == set()
    assert named == changed_fields(AUTHORS)


def test_reference_and_composed_weigh_more_in_the_first_half_of_a_phase():
    phase = replace(MAGICAPTURE.phases[1], steps=5, early_reference=2.0, weights=LossWeights(reference=0.5))
    weights = [weights_at(phase, MAGICAPTURE, step) for step in range(5)]
    assert [w.reference for w in weights] == [1.0, 1.0, 1.0, 0.5, 0.5]  # steps 0 to 2 begin before the half
    assert [w.composed for w in weights] == [2.0, 2.0, 2.0, 1.0, 1.0]
    assert {(w.source, w.identity) for w in weights} == {(1.0, 1.0)}


@pytest.mark.slow
def test_a_training_by_the_authors_recipe_shows_one_task_a_step_and_learns_all_of_it():
    backend, reports = tiny_backend(), []
    source, reference = tiny_portraits(backend, 2, seed=1), tiny_portraits(backend, 2, seed=2)
    method = short(AUTHORS.apply(MAGICAPTURE), steps=12)
    adapter = personalise(backend, source, reference, method, on_step=reports.append, progress=False)
    tasks = [set(report.terms) & {"source", "reference", "composed"} for report in reports]
    assert all(len(of_step) == 1 for of_step in tasks)
    assert set().union(*tasks[12:]) == {"source", "reference", "composed"}
    for report, of_step in zip(reports[12:], tasks[12:], strict=True):
        assert report.identity_images == (0 if of_step == {"reference"} else 2)  # a pass of its own for the others
    assert adapter.placeholders["reference"].initializer == ""
    assert adapter.prompt == "a photo of a <v1> person in the style of <v2>"
    layers = {name.partition(".lora_")[0].rpartition("transformer_blocks.0.")[2] for name in adapter.lora}
    assert {"attn1.to_q", "attn2.to_v", "ff.net.0.proj"} <= layers and "ff.net.2" not in layers
