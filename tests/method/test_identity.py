from types import SimpleNamespace

import pytest
import torch
from torch.autograd import gradcheck

from mcpkg.method.identity import identity_loss
from mcpkg.method.interfaces import find_faces


@pytest.mark.parametrize(
    "embedding, loss", [([2.0, 0.0], 0), ([0.0, 3.0], 1), ([-1.0, 0.0], 2), ([1.0, 1.0], 1 - 0.5**0.5)]
)
def test_identity_by_hand(embedding, loss):
    got = identity_loss(torch.tensor([embedding]), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([float(loss)]))


def test_gradient(generator):
    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    target = rand(2, 5)
    assert gradcheck(lambda x: identity_loss(x, target), rand(2, 5))


def test_only_the_finder_is_asked_whether_there_is_a_face():
    class Finder:
        def parse(self, images):
            return SimpleNamespace(found=torch.tensor([True, False]))

    class Parts:
        finder = Finder()

        def parse(self, images):
            raise AssertionError("the larger network was run")

    for parser in (Parts(), Finder()):
        assert find_faces(parser, torch.zeros(2, 3, 4, 4)).tolist() == [True, False]
