from dataclasses import replace

import pytest
import torch

from mcpkg.method.methods import MAGICAPTURE
from mcpkg.method.optimizer_registry import OPTIMIZERS
from mcpkg.training.optimizer import PhaseOptimizer, Trainable


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
