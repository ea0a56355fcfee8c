"""What a portrait is made of: who (identity), in what look (style), how it was shot (nuisance), and how these co-occur.

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

NUISANCE = ("x", "y", "scale", "roll", "yaw", "light_x", "light_y", "smile", "gaze", "exposure")
"""What changes from shot to shot, each in [-1, 1]."""

_COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}


def code(attribute: str, value: str) -> int:
    """Index of `value` among the attribute's values, e.g. `code("hair", "bob") == 2`."""
    return ATTRIBUTES[attribute].index(value)


class _Batch:
    """Indexing shared by the three frozen records: every field is a tensor with the batch first."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index):
        index = slice(index, index + 1) if isinstance(index, int) else index
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def repeat(self, times: int):
        """Each row `times` times in a row: a, a, b, b, ..."""
        return replace(self, **{f.name: getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)})

    def to(self, device):
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class People(_Batch):
    """Who is in the picture."""

    shape: Float[Tensor, "b p"]
    """Columns in the order of `IDENTITY`."""
    feminine: Bool[Tensor, " b"]
    """Feminine-presenting (lashes, lip colour, no beard), as a caption writer would read the picture."""
    robot: Bool[Tensor, " b"]
    """The subject that is not a person: same layout, another kind of head."""

    def __getattr__(self, name: str) -> Tensor:
        if name in IDENTITY:
            return self.shape[:, IDENTITY.index(name)]
        raise AttributeError(name)


@dataclass(frozen=True)
class Looks(_Batch):
    """In what style."""

    codes: Int64[Tensor, "b a"]
    """Columns in the order of `ATTRIBUTES`."""

    def __getattr__(self, name: str) -> Tensor:
        if name in _COLUMN:
            return self.codes[:, _COLUMN[name]]
        raise AttributeError(name)

    @classmethod
    def of(cls, **values: str) -> Looks:
        """One look by words; what is not named takes the attribute's first value."""
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
    """How the picture was taken; columns in the order of `NUISANCE`."""

    values: Float[Tensor, "b n"]

    def __getattr__(self, name: str) -> Tensor:
        if name in NUISANCE:
            return self.values[:, NUISANCE.index(name)]
        raise AttributeError(name)


def sample_nuisance(n: int, generator: Generator, spread: float = 1.0) -> Nuisance:
    """Uniform shot-to-shot variation; `spread` 0 gives a centred, frontal, neutral shot."""
    return Nuisance((torch.rand(n, len(NUISANCE), generator=generator) * 2 - 1) * spread)


@dataclass(frozen=True)
class Population:
    """How attributes co-occur. All weights are relative."""

    name: str
    skin_tones: tuple[float, ...] = (1.0,) * 10
    """Weight of each Monk tone, 1 (lightest) to 10."""
    feminine: float = 0.5
    """Share of feminine-presenting people."""
    robots: float = 0.05
    """Share of subjects that are robots."""
    garments_feminine: tuple[float, ...] = (1.0,) * 7
    garments_masculine: tuple[float, ...] = (1.0,) * 7
    """Weights in the order of `ATTRIBUTES["garment"]`."""
    hair_feminine: tuple[float, ...] = (1.0,) * 7
    hair_masculine: tuple[float, ...] = (1.0,) * 7
    """Weights in the order of `ATTRIBUTES["hair"]`."""
    treatments: tuple[float, ...] = (6.0, 1.0, 1.0, 1.0, 1.0)
    """Weights in the order of `ATTRIBUTES["treatment"]`."""
    white_dress: float = 1.0
    """How much more often a wedding dress is white than any other colour."""

    def people(self, n: int, generator: Generator) -> People:
        """`n` new identities."""
        shape = torch.rand(n, len(IDENTITY), generator=generator) * 2 - 1
        tone = _draw(torch.tensor(self.skin_tones).float().expand(n, -1), generator)
        jitter = torch.rand(n, generator=generator) - 0.5
        shape[:, IDENTITY.index("skin")] = ((tone + jitter) / 4.5 - 1).clamp(-1, 1)
        feminine = torch.rand(n, generator=generator) < self.feminine
        robot = torch.rand(n, generator=generator) < self.robots
        shape[feminine, IDENTITY.index("beard")] = -1.0
        return People(shape, feminine, robot)

    def looks(self, people: People, generator: Generator) -> Looks:
        """One look for each of `people`, drawn given how they present."""
        n = len(people)

        def given(feminine: tuple[float, ...], masculine: tuple[float, ...]) -> Tensor:
            return torch.where(people.feminine[:, None].cpu(), torch.tensor(feminine), torch.tensor(masculine)).float()

        codes = torch.stack(
            [torch.randint(len(values), (n,), generator=generator) for values in ATTRIBUTES.values()], dim=1
        )
        codes[:, _COLUMN["hair"]] = _draw(given(self.hair_feminine, self.hair_masculine), generator)
        codes[:, _COLUMN["garment"]] = _draw(given(self.garments_feminine, self.garments_masculine), generator)
        codes[:, _COLUMN["treatment"]] = _draw(torch.tensor(self.treatments).float().expand(n, -1), generator)
        dress_colours = torch.ones(len(ATTRIBUTES["garment_colour"]))
        dress_colours[code("garment_colour", "white")] = self.white_dress
        dress_colour = _draw(dress_colours.expand(n, -1), generator)
        dress = codes[:, _COLUMN["garment"]] == code("garment", "wedding dress")
        codes[dress, _COLUMN["garment_colour"]] = dress_colour[dress]
        return Looks(_wearable(codes, people.robot.cpu()))


def _wearable(codes: Tensor, robot: Tensor) -> Tensor:
    """A hat would hide a bun or spikes, so those heads wear short hair; robots have no hair and wear nothing on it."""
    hidden = (codes[:, _COLUMN["accessory"]] == code("accessory", "hat")) & (
        (codes[:, _COLUMN["hair"]] == code("hair", "bun")) | (codes[:, _COLUMN["hair"]] == code("hair", "spiky"))
    )
    codes[hidden, _COLUMN["hair"]] = code("hair", "short")
    codes[robot, _COLUMN["hair"]] = code("hair", "bald")
    codes[robot, _COLUMN["accessory"]] = code("accessory", "none")
    return codes


def _draw(weights: Float[Tensor, "n k"], generator: Generator) -> Int64[Tensor, " n"]:
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def readable(looks: Looks) -> Bool[Tensor, "b a"]:
    """Which attributes the picture shows: no colours in sepia or noir, no hair colour on a bald head.

    Under a hat, short hair and none are almost one picture.
    """
    shown = torch.ones_like(looks.codes, dtype=torch.bool)
    toned = (looks.treatment == code("treatment", "sepia")) | (looks.treatment == code("treatment", "noir"))
    for attribute in ("hair_colour", "garment_colour", "background_colour"):
        shown[:, _COLUMN[attribute]] = ~toned
    bald = looks.hair == code("hair", "bald")
    hatted = (looks.accessory == code("accessory", "hat")) & (bald | (looks.hair == code("hair", "short")))
    shown[:, _COLUMN["hair"]] = ~hatted
    shown[:, _COLUMN["hair_colour"]] &= ~bald & ~hatted
    return shown


WEB = Population(
    "web",
    # About half of the people have one of the three lightest tones, one in eight one of the four darkest.
    skin_tones=(10, 20, 20, 16, 12, 9, 5, 4, 2.5, 1.5),
    # suit, shirt, hoodie, sweater, kimono, spacesuit, wedding dress
    garments_feminine=(8, 15, 13, 15, 16, 13, 20),
    garments_masculine=(24, 16, 16, 16, 14, 13.5, 0.5),
    # bald, short, bob, long, curly, bun, spiky
    hair_feminine=(2, 9, 22, 26, 16, 17, 8),
    hair_masculine=(20, 26, 6, 8, 16, 5, 19),
    white_dress=10.0,
)
"""Skewed as scraped data is: light skin over-represented, wedding dresses almost only on feminine-presenting people."""

BALANCED = Population("balanced")
"""Every tone, cut and garment equally often, whoever wears it."""

POPULATIONS = {population.name: population for population in (WEB, BALANCED)}
