"""What an attention loss would do by itself: its gradient on one placeholder's scores, and the map after some steps.

Training moves attention through the weights of a network, together with other losses; here the scores before the
softmax move freely and alone. So this shows where a loss pulls, and what a map looks like that meets it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcpkg.method.config import Refocusing
from mcpkg.method.refocusing import refocusing_loss
from mcpkg.metrics.leakage import attention_leakage, attention_mass

EDGE = 1e-6
"""How near to 0 and 1 attention may be before it becomes a score."""
RATE = 0.25
"""Of the steps, times the number of cells and heads: the losses are means over both, and so are their gradients."""


@dataclass(frozen=True)
class Refocused:
    """One placeholder's maps under an attention loss."""

    maps: Float[Tensor, "1 heads h w"]
    """After the last step."""
    gradient: Float[Tensor, "1 heads h w"]
    """Of the weighted loss on the scores of `maps`; a step goes against it: positive is attended to less."""
    loss: tuple[float, ...]
    """Before its weight; at the start and after each step, as the next two."""
    leakage: tuple[float, ...]
    """Fraction of attention outside the mask, of the mean over heads."""
    mass: tuple[float, ...]
    """Mean attention inside the mask."""


def refocus(
    maps: Float[Tensor, "1 heads h w"],
    mask: Float[Tensor, "1 1 H W"],
    refocusing: Refocusing = Refocusing(),
    steps: int = 0,
) -> Refocused:
    """Follow an attention loss for some steps of plain gradient descent on one placeholder's scores.

    Args:
        maps: a placeholder's attention, in (0, 1). Its scores are logit(A): with the scores of all other tokens held,
            softmax is the logistic function of a token's own.
        mask: where the placeholder may be attended to.
        refocusing: form, scale and weight of the loss; a greater weight takes longer steps.
        steps: how many; with 0 the maps stay, and the gradient is theirs.

    Raises:
        ValueError: fewer than 0 steps.
    """
    if steps < 0:
        raise ValueError(f"steps: {steps} is negative. Give 0 or more.")
    attention_loss = refocusing_loss(refocusing)
    scores = maps.detach().clamp(EDGE, 1 - EDGE).logit()
    losses, leaks, masses = [], [], []
    for _ in range(steps + 1):
        scores = scores.detach().requires_grad_()
        attention = scores.sigmoid()  # 1 heads h w
        loss = attention_loss(attention, mask).sum()
        (gradient,) = torch.autograd.grad(refocusing.weight * loss, scores)
        together = attention.detach().mean(dim=1, keepdim=True)
        losses.append(loss.item())
        leaks.append(attention_leakage(together, mask).item())
        masses.append(attention_mass(together, mask).item())
        scores = scores - RATE * scores.numel() * gradient
    return Refocused(attention.detach(), gradient, tuple(losses), tuple(leaks), tuple(masses))
