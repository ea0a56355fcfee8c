"""With bitsandbytes, which the base install does not have."""

from dataclasses import replace

import torch

from mcpkg.method.methods import DREAMBOOTH
from mcpkg.training.trainer import open_training
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short, train

METHOD = replace(short(DREAMBOOTH, steps=4), optimizer="adamw8bit")


def largest(changes):
    return max(change.abs().max().item() for change in changes)


def test_it_learns_nearly_what_adamw_learns():
    eight, full = train(METHOD)[1].deltas, train(replace(METHOD, optimizer="adamw"))[1].deltas
    apart = largest(eight[name] - full[name] for name in full)
    print(f"\nlargest change {largest(full.values()):.4f}, with 8 bits {apart:.4f} apart")
    assert apart < largest(full.values()) / 2


def test_its_moments_are_kept_and_go_on_to_the_same_bits():
    backend = tiny_backend()
    portraits = tiny_portraits(backend)

    def ends(state=None):
        with open_training(backend, portraits, portraits, METHOD, 0) as training:
            if state is not None:
                training.restore(state)
            states = [training.state() for _ in training.steps(False)]
            return training.adapter().deltas, states

    whole, states = ends()
    again, _ = ends(states[1])
    assert any(name.endswith(" state1") and tensor.dtype == torch.uint8 for name, tensor in states[1].tensors.items())
    assert all(torch.equal(whole[name], again[name]) for name in whole)
