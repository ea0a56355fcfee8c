import os
from dataclasses import replace

import pytest
import torch

from mcpkg.training import threads
from mcpkg.training.threads import training_threads
from tests.helpers.tiny_backend import tiny_backend


@pytest.fixture
def four_cores(monkeypatch):
    """A machine with four cores, for all of which torch has started a thread, because nobody told it otherwise."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4))
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def trained_with(wanted):
    """Threads within the block of a backend that wants so many."""
    with training_threads(replace(tiny_backend(), threads=wanted)):
        return torch.get_num_threads()


def test_a_backend_trains_with_the_threads_that_suit_it(four_cores):
    assert trained_with(1) == 1
    assert torch.get_num_threads() == 4  # as before, after the block
    assert trained_with(None) == 4


def test_they_are_as_before_also_after_an_error(four_cores):
    with pytest.raises(ZeroDivisionError), training_threads(replace(tiny_backend(), threads=1)):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_an_environment_variable_of_the_user_wins(four_cores, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert trained_with(1) == 4


def test_the_users_own_set_num_threads_wins(four_cores):
    torch.set_num_threads(3)
    assert trained_with(1) == 3
