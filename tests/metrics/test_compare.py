from dataclasses import replace

import torch

from mcpkg.method.methods import MAGICAPTURE
from mcpkg.metrics.compare import untrained
from mcpkg.training.trainer import personalise
from tests.helpers.tiny_backend import tiny_backend, tiny_portraits
from tests.helpers.tiny_training import short


def setting():
    backend = tiny_backend()
    return backend, tiny_portraits(backend, 3, seed=1), tiny_portraits(backend, 2, seed=2)


def learned(adapter):
    return adapter.embeddings | adapter.lora


def test_an_untrained_adapter_is_the_start_of_training():
    method = short(MAGICAPTURE)
    start = untrained(*setting(), method)
    frozen = replace(method, phases=tuple(replace(phase, steps=0) for phase in method.phases))
    same = personalise(*setting(), frozen, progress=False)
    assert all(torch.equal(value, learned(same)[name]) for name, value in learned(start).items())
    assert start.method.name == "untrained"
