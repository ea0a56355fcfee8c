"""What a portrait is made of: an identity (`People`), a style (`Looks`) and how the picture was taken (`Nuisance`).

A portrait is three small tensors. Because they are known, the true mask, identity and style of every
rendered image are known too, which no collection of photographs can offer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

PARTS = ("background", "face", "hair", "ears", "neck", "garment", "accessory")
"""Regions of a portrait. "face" is skin with its features; bare shoulders count as "neck"."""
BACKGROUND, FACE, HAIR, EARS, NECK, GARMENT, ACCESSORY = range(len(PARTS))

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair": ("bald", "short", "bob", "long", "curly", "bun", "spiky"),
    "hair_colour": ("black", "brown", "blonde", "ginger", "silver", "blue"),
    "garment": ("suit", "shirt", "hoodie", "sweater", "kimono", "spacesuit", "wedding dress"),
    "garment_colour": ("black", "white", "red", "blue", "green", "yellow", "purple", "pink"),
    "accessory": ("none", "glasses", "sunglasses", "earrings", "hat"),
    "background": ("plain", "gradient", "striped", "dotted", "checkered", "bokeh"),
    "background_colour": ("white", "grey", "blue", "green", "pink", "orange"),
    "treatment": ("plain", "sepia", "noir", "neon", "painterly"),
}
"""Style attributes and their values, in the column order of `Looks.codes`."""

IDENTITY = (
    "face_width", "face_length", "jaw_width", "jaw_squareness",
    "eye_spacing", "eye_size", "eye_openness", "eye_tilt", "eye_height", "eye_colour",
    "brow_thickness", "brow_height", "brow_tilt",
    "nose_length", "nose_width",
    "mouth_width", "mouth_height", "lip_fullness",
    "ear_size", "skin", "freckles", "mole_place", "mole_size", "beard",
)  # fmt: skip
"""Continuous identity parameters, each in [-1, 1]; `skin` runs along the ten Monk tones."""
MONK_TONES = 10
"""Skin tones of the Monk scale, 1 (lightest) to 10."""

NUISANCE = ("x", "y", "scale", "roll", "yaw", "light_x", "light_y", "smile", "gaze", "exposure")
"""What changes from one picture of a person to the next, each in [-1, 1]."""

COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}
"""Attribute -> its column in `Looks.codes`."""


def code(attribute: str, value: str) -> int:
    """Index of `value` among the attribute's values, e.g. `code("hair", "bob") == 2`."""
    return ATTRIBUTES[attribute].index(value)


def tone_to_skin(tone: int) -> float:
    """Return the identity parameter `skin`, -1 to 1, of a Monk tone, 1 to 10."""
    return (tone - 1) / 4.5 - 1


def skin_to_tone(skin: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the Monk tone, 1 to 10, of the identity parameter `skin`, -1 to 1."""
    return 1 + (MONK_TONES - 1) * (skin + 1) / 2


class _Batch:
    """Indexing for frozen dataclasses whose fields are all tensors with the batch as first dimension."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index):
        index = slice(index, index + 1) if isinstance(index, int) else index
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def repeat(self, times: int):
        """Repeat each row `times` times: a, a, b, b, ..."""
        return replace(self, **{f.name: getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)})

    def to(self, device):
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class People(_Batch):
    """The identities in a batch of pictures."""

    shape: Float[Tensor, "b p"]
    """Columns in the order of `IDENTITY`."""
    feminine: Bool[Tensor, " b"]
    """Feminine-presenting (lashes, lip colour, no beard), as the author of a caption would read the picture."""
    robot: Bool[Tensor, " b"]
    """True for a subject that is not a person: the same layout with a robot's head."""

    def __getattr__(self, name: str) -> Tensor:
        if name in IDENTITY:
            return self.shape[:, IDENTITY.index(name)]
        raise AttributeError(name)


@dataclass(frozen=True)
class Looks(_Batch):
    """The styles in a batch of pictures."""

    codes: Int64[Tensor, "b a"]
    """Columns in the order of `ATTRIBUTES`."""

    def __getattr__(self, name: str) -> Tensor:
        if name in COLUMN:
            return self.codes[:, COLUMN[name]]
        raise AttributeError(name)

    @classmethod
    def of(cls, **values: str) -> Looks:
        """Return one look from names of values; an attribute that is not given takes its first value.

        Raises:
            ValueError: unknown attribute or value.
        """
        unknown = set(values) - set(ATTRIBUTES)
        if unknown:
            raise ValueError(f"unknown attribute {sorted(unknown)[0]!r}; choose from {', '.join(ATTRIBUTES)}")
        row = []
        for attribute, choices in ATTRIBUTES.items():
            value = values.get(attribute, choices[0])
            if value not in choices:
                raise ValueError(f"{attribute}: unknown value {value!r}; choose from {', '.join(choices)}")
            row.append(choices.index(value))
        return cls(torch.tensor([row]))


@dataclass(frozen=True)
class Nuisance(_Batch):
    """How the pictures were taken: what changes although identity and style stay the same."""

    values: Float[Tensor, "b n"]
    """Columns in the order of `NUISANCE`."""

    def __getattr__(self, name: str) -> Tensor:
        if name in NUISANCE:
            return self.values[:, NUISANCE.index(name)]
        raise AttributeError(name)


def sample_nuisance(n: int, generator: Generator, spread: float = 1.0) -> Nuisance:
    """Draw uniform values in [-spread, spread]; `spread` 0 gives a centred, frontal, neutral picture."""
    return Nuisance((torch.rand(n, len(NUISANCE), generator=generator) * 2 - 1) * spread)


def readable(looks: Looks) -> Bool[Tensor, "b a"]:
    """Return which attributes the picture shows: no colours in sepia or noir, no hair colour on a bald head.

    Hair is not shown under a hat if it is short or bald, since the two pictures are almost the same.
    """
    shown = torch.ones_like(looks.codes, dtype=torch.bool)
    toned = (looks.treatment == code("treatment", "sepia")) | (looks.treatment == code("treatment", "noir"))
    for attribute in ("hair_colour", "garment_colour", "background_colour"):
        shown[:, COLUMN[attribute]] = ~toned
    bald = looks.hair == code("hair", "bald")
    hatted = (looks.accessory == code("accessory", "hat")) & (bald | (looks.hair == code("hair", "short")))
    shown[:, COLUMN["hair"]] = ~hatted
    shown[:, COLUMN["hair_colour"]] &= ~bald & ~hatted
    return shown
