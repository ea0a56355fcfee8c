"""Render `data_samples/`: python -m mcpkg.world.samples --out data_samples.

Each folder of portraits has a folder `masks` beside the pictures, with the true face mask of each.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Generator

from mcpkg.util.images import save_image
from mcpkg.world.attributes import FACE, IDENTITY, Looks, People, sample_nuisance, tone_to_skin
from mcpkg.world.population import BALANCED
from mcpkg.world.render import render_portraits

PHOTOS = 5  # per subject and per style
SIZE_PX = 256
NUISANCE_SEED = 500_000  # added to a person's seed; the same seed would repeat the person's random numbers


@dataclass(frozen=True)
class Subject:
    """One identity that no model was trained on."""

    seed: int
    monk_tone: int
    """1 (lightest) to 10."""
    feminine: bool
    hair: str
    hair_colour: str
    robot: bool = False

    def people(self) -> People:
        """Return the subject as a batch of one."""
        person = BALANCED.people(1, Generator().manual_seed(self.seed))
        shape = person.shape.clone()
        shape[:, IDENTITY.index("skin")] = tone_to_skin(self.monk_tone)
        shape[:, IDENTITY.index("beard")] = -1.0 if self.feminine else shape[:, IDENTITY.index("beard")]
        return People(shape, torch.tensor([self.feminine]), torch.tensor([self.robot]))


SUBJECTS = {
    "amara": Subject(seed=9_000_001, monk_tone=9, feminine=True, hair="curly", hair_colour="black"),
    "bruno": Subject(seed=9_000_002, monk_tone=6, feminine=False, hair="short", hair_colour="black"),
    "clara": Subject(seed=9_000_003, monk_tone=2, feminine=True, hair="bob", hair_colour="ginger"),
    "daichi": Subject(seed=9_000_004, monk_tone=4, feminine=False, hair="spiky", hair_colour="brown"),
}
ROBOT = Subject(seed=9_000_005, monk_tone=5, feminine=False, hair="bald", hair_colour="black", robot=True)

# Everyday clothes. Plain treatment and no sunglasses: these would hide the identity.
EVERYDAY = (
    dict(garment="sweater", garment_colour="blue", background="plain", background_colour="grey"),
    dict(garment="shirt", garment_colour="white", background="gradient", background_colour="blue"),
    dict(garment="hoodie", garment_colour="green", background="plain", background_colour="green"),
    dict(garment="shirt", garment_colour="yellow", background="dotted", background_colour="white"),
    dict(garment="sweater", garment_colour="purple", background="gradient", background_colour="orange"),
)

STYLES = {
    "kimono": Looks.of(
        hair="bun", hair_colour="black", garment="kimono", garment_colour="red", accessory="earrings",
        background="gradient", background_colour="orange",
    ),
    "noir_suit": Looks.of(
        hair="short", hair_colour="black", garment="suit", garment_colour="black",
        background="striped", background_colour="grey", treatment="noir",
    ),
    "spacesuit": Looks.of(
        hair="short", hair_colour="blonde", garment="spacesuit", garment_colour="white",
        background="bokeh", background_colour="blue",
    ),
    "wedding": Looks.of(
        hair="long", hair_colour="brown", garment="wedding dress", garment_colour="white",
        background="plain", background_colour="pink",
    ),
}  # fmt: skip
ROBOT_STYLE = Looks.of(
    hair="bald", garment="hoodie", garment_colour="yellow",
    background="checkered", background_colour="green", treatment="painterly",
)  # fmt: skip

CREDITS = """# Credits

Every picture here was rendered by `python -m mcpkg.world.samples`, part of this package, and can be
made again from its seeds. They show no real person, and no photograph was used to make them.
To the extent possible under law, the authors waive all rights to the pictures and the masks
([CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)). `demo.png` was made by `make demo`.

- `subjects/NAME/`: one person, {photos} everyday photos.
- `styles/NAME/`: one look, {photos} portraits of {photos} other people.
- `robot/subject/`, `robot/style/`: the same for a subject that is not a person.
- `masks/` in each folder: the true face mask of the picture of the same name, white on the face.
"""


def source_looks(subject: Subject) -> Looks:
    """Return `PHOTOS` everyday looks with the subject's hair."""
    return everyday_looks(subject.hair, subject.hair_colour)


def everyday_looks(hair: str, hair_colour: str) -> Looks:
    """Return `PHOTOS` looks with the same hair and a different garment and background in each."""
    hair = dict(hair=hair, hair_colour=hair_colour)
    return Looks(torch.cat([Looks.of(**hair, **day).codes for day in EVERYDAY]))


def reference_people(style_seed: int, robot: bool = False) -> People:
    """Draw `PHOTOS` people with skin tones spread over the scale, alternating in presentation."""
    people = BALANCED.people(PHOTOS, Generator().manual_seed(style_seed))
    shape = people.shape.clone()
    shape[:, IDENTITY.index("skin")] = torch.linspace(-0.8, 0.8, PHOTOS)
    feminine = torch.arange(PHOTOS) % 2 == 0
    shape[feminine, IDENTITY.index("beard")] = -1.0
    return People(shape, feminine, torch.full((PHOTOS,), robot))


def write_sample(people: People, looks: Looks, seed: int, folder: Path) -> None:
    """Render one folder of portraits with their face masks."""
    nuisance = sample_nuisance(len(people), Generator().manual_seed(NUISANCE_SEED + seed))
    renders = render_portraits(people, looks, nuisance, size=SIZE_PX)
    faces = renders.parts[:, FACE, None]  # b 1 h w
    for i, (image, face) in enumerate(zip(renders.image, faces.expand(-1, 3, -1, -1)), start=1):
        save_image(image, folder / f"{i:02}.png")
        save_image(face, folder / "masks" / f"{i:02}.png")


def make_samples(out: Path) -> None:
    """Write every sample folder and `CREDITS.md`."""
    for name, subject in SUBJECTS.items():
        write_sample(subject.people().repeat(PHOTOS), source_looks(subject), subject.seed, out / "subjects" / name)
    for seed, (name, look) in enumerate(STYLES.items(), start=9_100_000):
        write_sample(reference_people(seed), look.repeat(PHOTOS), seed, out / "styles" / name)
    write_sample(ROBOT.people().repeat(PHOTOS), source_looks(ROBOT), ROBOT.seed, out / "robot" / "subject")
    write_sample(
        reference_people(9_200_000, robot=True), ROBOT_STYLE.repeat(PHOTOS), 9_200_000, out / "robot" / "style"
    )
    (out / "CREDITS.md").write_text(CREDITS.format(photos=PHOTOS))


def main(out: Path = Path("data_samples")) -> None:
    """Render the sample subjects and styles.

    Args:
        out: folder to write to; files of the same name are replaced.
    """
    make_samples(out)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m mcpkg.world.samples")
