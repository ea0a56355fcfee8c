"""The strength of a restoration, and several restorers one after another."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mcpkg.method.interfaces import Restorer


def restore_portraits(
    restorer: Restorer | None, images: Float[Tensor, "b 3 h w"], strength: float = 1.0
) -> Float[Tensor, "b 3 H W"]:
    """Restored images, blended with the same images enlarged without restoration.

    Args:
        restorer: the backend's.
        strength: 1 for the restoration alone, 0 for bicubic enlargement alone.

    Raises:
        ValueError: a strength outside 0 to 1.
        FileNotFoundError: there is no restorer.

    Note:
        A blend in pixels works for every restorer. GFPGAN's own `weight` does nothing for its released networks.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength of restoration: {strength} is not between 0 and 1.")
    if restorer is None:
        raise FileNotFoundError("no restorer here. `mcpkg weights` lists those to download.")
    restored = restorer.restore(images)
    if strength == 1:
        return restored
    enlarged = functional.interpolate(images, restored.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    return enlarged + strength * (restored - enlarged)


class RestorerChain:
    """`Restorer` that applies several in order, such as Real-ESRGAN to the whole image and then GFPGAN to the face."""

    def __init__(self, restorers: Sequence[Restorer]):
        self.restorers = tuple(restorers)

    def restore(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
        for restorer in self.restorers:
            images = restorer.restore(images)
        return images
