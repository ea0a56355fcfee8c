"""What a training step reads: encoded images, their masks, and the prompts that they are shown under."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcpkg.method.config import Method
from mcpkg.method.placeholders import REFERENCE, SOURCE, Placeholder
from mcpkg.method.prompts import find_token

ROLES = {"source": SOURCE, "reference": REFERENCE}
"""Role -> its placeholder: [V1] is the source, [V2] the reference."""


def placeholders_of(method: Method) -> dict[str, Placeholder]:
    """Role -> its placeholder as the method trains it."""
    source, reference = (replace(placeholder, vectors=method.vectors) for placeholder in ROLES.values())
    return {"source": source, "reference": replace(reference, initializer=method.reference_initializer)}


def placeholder_positions(tokenizer, ids: Int[Tensor, "b n"]) -> dict[str, Bool[Tensor, "b n"]]:
    """Role -> where its placeholder stands among token ids; roles that are in none of the prompts are left out.

    Raises:
        ValueError: a placeholder was never added to the tokenizer.
    """
    positions = {role: find_token(tokenizer, ids, placeholder.token) for role, placeholder in ROLES.items()}
    return {role: where for role, where in positions.items() if where.any()}


@dataclass(frozen=True)
class EncodedImages:
    """Images as training reads them, with what is known of them."""

    latents: Float[Tensor, "n c k k"]
    mask: Float[Tensor, "n 1 k k"]
    """Where reconstruction counts."""
    face: Float[Tensor, "n 1 h w"]
    """Pixels of the face: where [V1] may be attended to; [V2] may be attended to in the rest."""
    landmarks: Float[Tensor, "n 5 2"]

    @classmethod
    def of(cls, parts: Sequence["EncodedImages"]) -> "EncodedImages":
        """Several, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: Int[Tensor, " m"]) -> "EncodedImages":
        return EncodedImages(self.latents[index], self.mask[index], self.face[index], self.landmarks[index])


@dataclass(frozen=True)
class Batch:
    """Samples of every task of a phase, one task after the other."""

    images: EncodedImages
    tasks: tuple[str, ...]
    """Of each sample: one of `config.TASKS`."""
    prompts: tuple[str, ...]
    """The prompt of each sample."""
