"""What a training step reads: latents, masks and landmarks of samples, and the two roles."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mcpkg.method.prompts import REFERENCE, SOURCE


@dataclass(frozen=True)
class Concept:
    """One task's images, encoded once."""

    latents: Float[Tensor, "n c k k"]
    mask: Float[Tensor, "n 1 k k"]
    """Where reconstruction counts."""
    face: Float[Tensor, "n 1 h w"]
    """Pixels of the face: where [V1] may look; [V2] may look at the rest."""
    landmarks: Float[Tensor, "n 5 2"]

    def __getitem__(self, index: Int[Tensor, " m"]) -> "Concept":
        return Concept(self.latents[index], self.mask[index], self.face[index], self.landmarks[index])


ROLES = {"source": SOURCE, "reference": REFERENCE}
