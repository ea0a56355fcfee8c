"""How attributes co-occur: populations to draw people and their looks from, one skewed and one balanced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from mcpkg.world.attributes import ATTRIBUTES, COLUMN, IDENTITY, Looks, People, code

UNSEEN = 8_000_000
"""Seeds from here on are for evaluation. Training draws from hashes of its seeds (`mcpkg.factory.data.generator_for`),
63 bits wide: the chance that one of them equals one of these is below 10^-11.
"""


@dataclass(frozen=True)
class Population:
    """A distribution of people and looks: how attributes co-occur. All weights are relative."""

    name: str
    skin_tones: tuple[float, ...] = (1.0,) * 10
    """Weight of each Monk tone, 1 (lightest) to 10."""
    feminine: float = 0.5
    """Fraction of feminine-presenting people."""
    robots: float = 0.05
    """Fraction of subjects that are robots."""
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
        """Draw `n` identities."""
        shape = torch.rand(n, len(IDENTITY), generator=generator) * 2 - 1
        tone = _draw(torch.tensor(self.skin_tones).float().expand(n, -1), generator)
        jitter = torch.rand(n, generator=generator) - 0.5
        shape[:, IDENTITY.index("skin")] = ((tone + jitter) / 4.5 - 1).clamp(-1, 1)
        feminine = torch.rand(n, generator=generator) < self.feminine
        robot = torch.rand(n, generator=generator) < self.robots
        shape[feminine, IDENTITY.index("beard")] = -1.0
        return People(shape, feminine, robot)

    def looks(self, people: People, generator: Generator) -> Looks:
        """Draw one look for each of `people`, given how they present."""
        n = len(people)

        def given(feminine: tuple[float, ...], masculine: tuple[float, ...]) -> Tensor:
            return torch.where(people.feminine[:, None].cpu(), torch.tensor(feminine), torch.tensor(masculine)).float()

        codes = torch.stack(
            [torch.randint(len(values), (n,), generator=generator) for values in ATTRIBUTES.values()], dim=1
        )
        codes[:, COLUMN["hair"]] = _draw(given(self.hair_feminine, self.hair_masculine), generator)
        codes[:, COLUMN["garment"]] = _draw(given(self.garments_feminine, self.garments_masculine), generator)
        codes[:, COLUMN["treatment"]] = _draw(torch.tensor(self.treatments).float().expand(n, -1), generator)
        dress_colours = torch.ones(len(ATTRIBUTES["garment_colour"]))
        dress_colours[code("garment_colour", "white")] = self.white_dress
        dress_colour = _draw(dress_colours.expand(n, -1), generator)
        dress = codes[:, COLUMN["garment"]] == code("garment", "wedding dress")
        codes[dress, COLUMN["garment_colour"]] = dress_colour[dress]
        return Looks(_wearable(codes, people.robot.cpu()))


def _wearable(codes: Tensor, robot: Tensor) -> Tensor:
    """Correct `codes` in place where a look cannot be shown, and return them.

    Under a hat, a bun or spikes become short hair; robots are bald and have no accessory.
    """
    hidden = (codes[:, COLUMN["accessory"]] == code("accessory", "hat")) & (
        (codes[:, COLUMN["hair"]] == code("hair", "bun")) | (codes[:, COLUMN["hair"]] == code("hair", "spiky"))
    )
    codes[hidden, COLUMN["hair"]] = code("hair", "short")
    codes[robot, COLUMN["hair"]] = code("hair", "bald")
    codes[robot, COLUMN["accessory"]] = code("accessory", "none")
    return codes


def _draw(weights: Float[Tensor, "n k"], generator: Generator) -> Int64[Tensor, " n"]:
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


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
"""Skewed as scraped data is: more light skin than dark, wedding dresses almost only on feminine-presenting people."""

BALANCED = Population("balanced")
"""Every skin tone, haircut and garment equally often, independent of how a person presents."""

POPULATIONS = {population.name: population for population in (WEB, BALANCED)}
