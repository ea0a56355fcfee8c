from dataclasses import replace

import pytest
import torch

from mcpkg.inference.sampling import Sampling
from mcpkg.method.methods import MAGICAPTURE, ONE_PHASE, WITHOUT_REFOCUSING
from mcpkg.metrics.compare import compare_methods, train_methods, untrained
from mcpkg.training.trainer import Training, personalise
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short

METHODS = [short(method, steps=3) for method in (MAGICAPTURE, WITHOUT_REFOCUSING, ONE_PHASE)]


def setting():
    backend = tiny_backend()
    return backend, tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)


def learned(adapter):
    return adapter.embeddings | adapter.lora


@pytest.mark.slow
def test_a_shared_first_phase_changes_no_adapter(monkeypatch):
    trained = dict.fromkeys((method.name for method in METHODS), 0)

    def count(training, phase):
        trained[training.method.name] += 1
        return take_step(training, phase)

    take_step = Training._take_step
    monkeypatch.setattr(Training, "_take_step", count)
    together = list(train_methods(*setting(), METHODS, seed=0, progress=False))
    assert list(trained.values()) == [6, 3, 3]  # the second is spared the first phase; the third has but one
    for method, (adapter, history) in zip(METHODS, together, strict=True):
        alone = personalise(*setting(), method, seed=0, progress=False)
        assert all(torch.equal(value, learned(alone)[name]) for name, value in learned(adapter).items())
        assert [(step["phase"], step["step"]) for step in history] == [
            (number, step) for number, phase in enumerate(method.phases) for step in range(phase.steps)
        ]


@pytest.mark.slow
def test_every_method_draws_the_same_seeds():
    outcomes = compare_methods(*setting(), METHODS[:2], seed=5, sampling=Sampling(n=2, seed=5))
    assert list(outcomes) == ["MagiCapture", "without refocusing"]
    assert {outcome.generated.seeds for outcome in outcomes.values()} == {(5, 6)}
    for outcome in outcomes.values():
        assert outcome.generated.maps.roles == ("source", "reference") and outcome.scores.leakage_source.n == 2
        assert outcome.adapter.seed == 5 and len(outcome.history) == 6
        values = outcome.as_dict()
        no_face = sum(step["no_face_images"] for step in outcome.history)
        assert values["no_face_images_in_training"] == outcome.adapter.record["no_face_images"] == no_face


def test_an_untrained_adapter_is_the_start_of_training():
    start = untrained(*setting(), METHODS[0])
    frozen = replace(METHODS[0], phases=tuple(replace(phase, steps=0) for phase in METHODS[0].phases))
    same = personalise(*setting(), frozen, progress=False)
    assert all(torch.equal(value, learned(same)[name]) for name, value in learned(start).items())
    assert start.method.name == "untrained"
