from dataclasses import replace

import pytest
import torch

from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.optimizer_registry import OPTIMIZERS
from mcpkg.training.optimizer import PhaseOptimizer, Trainable, learning_rate_fraction


@pytest.fixture
def registered():
    """Two more optimisers of torch, registered as anyone would."""
    OPTIMIZERS.register("sgd")(torch.optim.SGD)
    OPTIMIZERS.register("radam")(torch.optim.RAdam)
    yield
    del OPTIMIZERS["sgd"], OPTIMIZERS["radam"]


@pytest.mark.parametrize("name", ["adamw", "sgd", "radam", "prodigy"])
def test_a_registered_optimiser_continues_from_its_state_bit_for_bit(name, registered):
    """Three steps at once, or two, a copy of the state, and one."""

    def optimiser(values):
        weight = torch.nn.Parameter(values.clone())
        trainable = Trainable({"embeddings": {"placeholders": weight}}, {})
        method = replace(MAGICAPTURE, optimizer=name)
        return weight, PhaseOptimizer(method.phases[0], method, trainable)

    def take_steps(weight, optimizer, steps):
        for step in steps:
            optimizer.backward((weight * torch.arange(3.0)).square().sum())
            optimizer.step(step)

    weight, optimizer = optimiser(torch.ones(3))
    take_steps(weight, optimizer, (0, 1))
    other, resumed = optimiser(weight.detach())
    moments = {key: value.clone() for key, value in optimizer.moments().items()}
    resumed.check_moments(moments, 2, may_be_empty=False)
    resumed.load_moments(moments)
    take_steps(weight, optimizer, (2,))
    take_steps(other, resumed, (2,))
    assert torch.equal(weight, other)


def lora_and_words():
    """What the second phase of MagiCapture trains, with a factor of the LoRA that starts at 0."""
    factors = {
        "a.lora_A.weight": torch.nn.Parameter(torch.ones(2, 3)),
        "a.lora_B.weight": torch.nn.Parameter(torch.zeros(3, 2)),
    }
    words = {"placeholders": torch.nn.Parameter(torch.ones(2, 4))}
    method = replace(MAGICAPTURE, optimizer="prodigy", warmup=0.5)
    return PhaseOptimizer(
        replace(method.phases[1], steps=100), method, Trainable({"embeddings": words, "lora": factors}, {})
    )


def far_from_target(optimizer):
    return sum((parameter - 0.5).square().sum() for parameter in optimizer.parameters.values())


def test_prodigy_finds_one_rate_for_all_that_a_phase_trains():
    optimizer = lora_and_words()
    before, rates = far_from_target(optimizer).item(), []
    for step in range(60):
        optimizer.backward(far_from_target(optimizer))
        rates.append(optimizer.step(step)[0])
    # it begins with 1e-6 times the first of 50 steps of warm-up
    assert rates[0] == {"embeddings": pytest.approx(2e-8), "lora": pytest.approx(2e-8)}
    assert rates[-1]["embeddings"] == rates[-1]["lora"] > 1e-3
    assert far_from_target(optimizer).item() < before / 10


def test_a_rate_that_was_found_is_kept_and_its_absence_noticed():
    optimizer = lora_and_words()
    for step in range(40):
        optimizer.backward(far_from_target(optimizer))
        optimizer.step(step)
    moments = optimizer.moments()
    assert moments["group-lora d"].item() == optimizer.optimizer.param_groups[1]["d"] > 1e-6
    other = lora_and_words()
    other.check_moments(moments, 40, may_be_empty=False)
    other.load_moments(moments)
    assert [group["d"] for group in other.optimizer.param_groups] == [
        group["d"] for group in optimizer.optimizer.param_groups
    ]
    with pytest.raises(ValueError, match="another optimiser"):
        other.check_moments({k: v for k, v in moments.items() if k != "group-lora d"}, 40, may_be_empty=False)
    with pytest.raises(ValueError, match="found is no number"):
        other.check_moments(moments | {"group-lora d": torch.tensor(float("nan"))}, 40, may_be_empty=False)


def test_embedding_norms_are_pulled_by_a_hundred_learning_rates():
    """Without a gradient, AdamW leaves the vectors where they are: only their norms change."""
    vectors = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    phase = replace(MAGICAPTURE.phases[0], steps=1, embedding_norm=2.0, embedding_learning_rate=5e-3)
    optimizer = PhaseOptimizer(phase, MAGICAPTURE, Trainable({"embeddings": {"placeholders": vectors}}, {}))
    optimizer.backward((0 * vectors).sum())
    optimizer.step(0)
    # 100 x 5e-3 = 0.5: norms 5 and 1 come half-way to 2, so 3.5 and 1.5.
    torch.testing.assert_close(vectors.detach(), torch.tensor([[2.1, 2.8], [0.0, 1.5]]))


def test_without_a_warmup_rates_only_fall():
    # 5 steps: (5 - step) / 4, at most 1
    assert [learning_rate_fraction(step, 5, 0.0) for step in range(5)] == [1.0, 1.0, 0.75, 0.5, 0.25]
