import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from mcpkg.method import methods
from mcpkg.method.config import (
    NO_REFOCUSING,
    REFOCUSING_FORMS,
    REFOCUSING_SCALES,
    LossWeights,
    Method,
    Phase,
    Refocusing,
    from_dict,
    to_dict,
)
from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.variations import with_refocusing, with_weights, without_task

METHODS = [value for value in vars(methods).values() if isinstance(value, Method)]


def test_magicapture_has_the_papers_numbers():
    first, second = MAGICAPTURE.phases
    assert (first.steps, first.trains, first.embedding_learning_rate) == (1200, ("embeddings",), 5e-4)
    assert (first.refocusing.weight, first.weights.identity) == (0, 0)
    assert (second.steps, second.learning_rate, second.embedding_learning_rate) == (1500, 1e-4, 1e-5)
    assert second.tasks == ("source", "reference", "composed")
    assert (second.refocusing.weight, second.weights.identity) == (2.5, 1.0)
    assert (second.refocusing.form, second.refocusing.scale) == ("mask", "max")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_survives_json(method):
    assert from_dict(json.loads(json.dumps(to_dict(method)))) == method


def test_methods_have_names_of_their_own():
    assert len({method.name for method in METHODS}) == len(METHODS) >= 10
    assert {id(method) for method in methods.METHODS.values()} == {id(method) for method in METHODS}


def test_every_method_learns_a_placeholder_for_its_subject():
    assert all("embeddings" in phase.trains for method in METHODS for phase in method.phases)


def test_ablations_change_one_thing_only():
    second = MAGICAPTURE.phases[1]
    for name, ablation in methods.METHODS.items():
        if name.startswith("without-"):
            assert ablation.phases[0] == MAGICAPTURE.phases[0]
    assert methods.WITHOUT_REFOCUSING.phases[1] == replace(second, refocusing=NO_REFOCUSING)
    assert methods.WITHOUT_IDENTITY.phases[1] == replace(second, weights=LossWeights(identity=0.0))
    assert methods.WITHOUT_COMPOSED.phases[1].tasks == ("source", "reference")
    assert methods.WITHOUT_COMPOSED.phases[1].weights.identity == 0
    both = methods.WITHOUT_REFOCUSING_AND_COMPOSED.phases[1]
    assert both == replace(methods.WITHOUT_COMPOSED.phases[1], refocusing=NO_REFOCUSING)
    assert both.weights == LossWeights(identity=0.0)
    assert replace(methods.WITHOUT_MASKS, masked=True, name=MAGICAPTURE.name) == MAGICAPTURE


def test_without_composed_prompts_the_source_has_none_either():
    shared = replace(MAGICAPTURE, composed_source=0.5)
    assert without_task(shared, "composed", "bare").composed_source == 0
    assert without_task(shared, "reference", "bare").composed_source == 0.5


def test_one_phase_has_all_the_steps_and_the_placeholders_rate_of_the_first():
    (phase,) = methods.ONE_PHASE.phases
    assert (phase.steps, phase.embedding_learning_rate) == (2700, 5e-4)
    assert (phase.weights, phase.refocusing) == (MAGICAPTURE.phases[1].weights, MAGICAPTURE.phases[1].refocusing)


def test_with_weights_leaves_a_term_off_where_it_is_off():
    changed = with_weights(MAGICAPTURE, "weak", identity=0.5, source=2.0)
    assert [phase.weights.identity for phase in changed.phases] == [0, 0.5]
    assert [phase.weights.source for phase in changed.phases] == [2, 2]
    assert [phase.refocusing for phase in changed.phases] == [phase.refocusing for phase in MAGICAPTURE.phases]
    assert changed.name == "weak"


def test_with_refocusing_leaves_it_off_where_it_is_off():
    changed = with_refocusing(MAGICAPTURE, "weak", weight=0.5, scale="none")
    assert [phase.refocusing for phase in changed.phases] == [NO_REFOCUSING, Refocusing(0.5, "mask", "none")]
    assert [phase.weights for phase in changed.phases] == [phase.weights for phase in MAGICAPTURE.phases]
    assert changed.name == "weak"
    form = with_refocusing(MAGICAPTURE, "form", form="fastcomposer")
    assert form.phases[1].refocusing == Refocusing(2.5, "fastcomposer", "max")  # what is not named stays
    assert with_refocusing(changed, MAGICAPTURE.name, weight=2.5, scale="max") == MAGICAPTURE


def test_refocusing_is_off_unless_a_phase_asks_for_it():
    assert Phase(1, ("lora",), ("source",)).refocusing == NO_REFOCUSING
    assert NO_REFOCUSING.weight == 0 and Refocusing() == MAGICAPTURE.phases[1].refocusing


def test_loss_weights_are_numbers_only():
    assert {field.type for field in fields(LossWeights)} == {"float"}


def test_every_form_and_scale_is_a_choice():
    for form in REFOCUSING_FORMS.names:
        assert Refocusing(form=form).form == form
    for scale in REFOCUSING_SCALES:
        assert Refocusing(scale=scale).scale == scale


@pytest.mark.slow
def test_forms_are_named_and_checked_without_torch():
    code = """
import sys
from mcpkg.method.config import REFOCUSING_FORMS, Refocusing
assert {"mask", "break_a_scene", "mix_of_show", "fastcomposer", "fraction"} <= set(REFOCUSING_FORMS.names)
Refocusing(form="fraction")
try:
    Refocusing(form="both")
except ValueError as error:
    assert "'fastcomposer'" in str(error), error
else:
    raise AssertionError("an unknown form was taken")
assert "torch" not in sys.modules, "torch was imported"
assert not REFOCUSING_FORMS, "a form was loaded"
assert REFOCUSING_FORMS["fraction"].__name__ == "attention_fraction"
assert tuple(REFOCUSING_FORMS) == REFOCUSING_FORMS.names and "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_values_can_not_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        MAGICAPTURE.lora_rank = 8


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LossWeights(identity=-1.0), "LossWeights.identity: -1.0 is below 0"),
        (lambda: Refocusing(weight=-0.5), "Refocusing.weight: -0.5 is below 0"),
        (lambda: Refocusing(form="both"), r"Refocusing.form: 'both' unknown. Choose from \['mask', "),
        (lambda: Refocusing(scale="softmax"), r"Refocusing.scale: 'softmax' unknown. Choose from \['max', "),
        (lambda: with_refocusing(MAGICAPTURE, "both", form="both"), "Refocusing.form: 'both' unknown"),
        (lambda: from_dict(json.loads(json.dumps(to_dict(MAGICAPTURE)).replace('"mask"', '"all"'))), "form: 'all'"),
        (lambda: Phase(1, ("lora", "vae"), ("source",)), r"Phase.trains: \['vae'\] unknown"),
        (lambda: Phase(1, ("lora",), ("source", "source")), "names one twice"),
        (lambda: Phase(1, ("lora",), ()), "at least one"),
        (lambda: Phase(1, ("lora",), ("source",), weights=LossWeights()), "identity loss reads the composed task"),
        (lambda: Phase(1, ("lora",), ("source",), max_timestep=1.2), "Phase.max_timestep: 1.2 is above 1"),
        (lambda: Phase(1, ("lora",), ("source",), max_timestep=1e-9), "Phase.max_timestep: 1e-09 is below 0.001"),
        (lambda: Phase(1, ("lora",), ("source",), learning_rate=math.nan), "Phase.learning_rate: not a number"),
        (lambda: replace(MAGICAPTURE, vectors=40), "Method.vectors: 40 is above 33"),
        (lambda: replace(MAGICAPTURE, optimizer="sgd"), r"Method.optimizer: 'sgd' unknown. Choose from \['adamw', "),
        (lambda: replace(MAGICAPTURE, lora_rank=0), "Method.lora_rank: 0 is below 1"),
        (lambda: replace(MAGICAPTURE, lora_layers="some"), "Method.lora_layers: 'some' unknown"),
        (lambda: replace(MAGICAPTURE, lora_tokens="some"), "Method.lora_tokens: 'some' unknown"),
        (lambda: replace(MAGICAPTURE, identity_max_timestep=0.0), "identity_max_timestep"),
        (lambda: replace(MAGICAPTURE, composed_source=2.0), "composed_source: 2.0 is above 1"),
        (
            lambda: replace(MAGICAPTURE, templates="ours"),
            r"templates: 'ours' unknown. Choose from .'paper'",
        ),
        (lambda: replace(MAGICAPTURE, templates="authors", vectors=33), "Method.vectors: 33 is above 32"),
        (lambda: replace(MAGICAPTURE, identity_tasks=("source",)), "identity_tasks: without composed. Add it"),
        (lambda: replace(MAGICAPTURE, identity_tasks=("composed", "prior")), r"identity_tasks: \['prior'\] unknown"),
        (lambda: replace(MAGICAPTURE, identity_pass="two"), "identity_pass: 'two' unknown"),
        (lambda: replace(MAGICAPTURE, mask_floor=1.5), "Method.mask_floor: 1.5 is above 1"),
        (lambda: replace(MAGICAPTURE, colour_jitter=-0.1), "Method.colour_jitter: -0.1 is below 0"),
        (lambda: replace(MAGICAPTURE, warmup=2.0), "Method.warmup: 2.0 is above 1"),
        (lambda: replace(MAGICAPTURE, lora_noise=-1.0), "Method.lora_noise: -1.0 is below 0"),
        (lambda: Phase(1, ("lora",), ("source",), embedding_norm=math.nan), "Phase.embedding_norm: not a number"),
        (lambda: Phase(1, ("lora",), ("source",), early_reference=-1.0), "Phase.early_reference: -1.0 is below 0"),
        (lambda: Phase(1, ("lora",), ("source",), text_learning_rate=0.0), "text_learning_rate: 0.0 is not above 0"),
        (
            lambda: replace(MAGICAPTURE, weighting="snr"),
            r"'snr' unknown. Choose from \['epsilon', 'velocity', 'min_snr'\]",
        ),
        (lambda: replace(MAGICAPTURE, weighting="min_snr", min_snr_gamma=0.0), "min_snr_gamma: 0.0 is not above 0"),
        (lambda: replace(MAGICAPTURE, min_snr_gamma=1.0), "min_snr_gamma: 1.0 is for weighting 'min_snr' only"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_choice_of_lora_layers_has_its_layers():
    from mcpkg.method.config import LORA_LAYERS
    from mcpkg.method.lora import LORA_TARGETS

    assert tuple(LORA_TARGETS) == LORA_LAYERS
