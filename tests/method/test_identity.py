import pytest
import torch
from torch.autograd import gradcheck

from mcpkg.method.identity import identity_loss


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
