"""What a training step reads: encoded images, their masks, and the prompts that they are shown under."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mcpkg.method.prompts import REFERENCE, SOURCE

ROLES = {"source": SOURCE, "reference": REFERENCE}
"""Role -> its placeholder: [V1] is the source, [V2] the reference."""


@dataclass(frozen=True)
class EncodedImages:
    """Images as training reads them, with what is known of them."""

    latents: Float[Tensor, "n c k k"]
    mask: Float[Tensor, "n 1 k k"]
    """Where reconstruction counts."""
    face: Float[Tensor, "n 1 h w"]
    """Pixels of the face: where [V1] may be attended to; [V2] may be attended to in the rest."""
    landmarks: Float[Tensor, "n 5 2"]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: Int[Tensor, " m"]) -> "EncodedImages":
        return EncodedImages(self.latents[index], self.mask[index], self.face[index], self.landmarks[index])


@dataclass(frozen=True)
class Batch(EncodedImages):
    """Samples of every task of a phase, one task after the other."""

    tasks: tuple[str, ...]
    """Of each sample: "source", "reference", "composed" or "prior"."""
    prompts: tuple[str, ...]
    """That each sample is shown under."""
