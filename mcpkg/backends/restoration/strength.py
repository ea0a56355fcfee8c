"""How much of a restoration is taken, and several restorers in turn."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.method.interfaces import Restorer


def restore_portraits(
    restorer: Restorer | None, images: Float[Tensor, "b 3 h w"], strength: float = 1.0
) -> Float[Tensor, "b 3 H W"]:
    """Restored images, blended with the same merely enlarged.

    Args:
        restorer: the backend's.
        strength: 1 for all of the restoration, 0 for bicubic enlargement alone.

    Raises:
        ValueError: a strength outside 0 to 1.
        FileNotFoundError: there is no restorer.

    Note:
        A blend in pixels works for every restorer. GFPGAN's own `weight` does nothing for its released networks.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength of restoration: {strength} is not between 0 and 1.")
    if restorer is None:
        raise FileNotFoundError("no restorer here. `mcpkg weights` lists what can be had.")
    restored = restorer.restore(images)
    if strength == 1:
        return restored
    enlarged = functional.interpolate(images, restored.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    return enlarged + strength * (restored - enlarged)


class RestorerChain:
    """`Restorer` of several, such as Real-ESRGAN for all of the picture and then GFPGAN for the face."""

    def __init__(self, restorers: Sequence[Restorer]):
        self.restorers = tuple(restorers)

    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
        for restorer in self.restorers:
            images = restorer.restore(images)
        return images
