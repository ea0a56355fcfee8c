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


@pytest.mark.parametrize("name", ["adamw", "sgd", "radam"])
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
    resumed.load_moments({key: value.clone() for key, value in optimizer.moments().items()})
    take_steps(weight, optimizer, (2,))
    take_steps(other, resumed, (2,))
    assert torch.equal(weight, other)


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
