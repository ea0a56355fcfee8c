"""Make the centre and whitening of dlib's network from photos of many people, and measure the likeness that they give.

Those in the package are of the members of the United States' Congress, on photos that Civil Services publishes
under MIT. Of a few people there are photos of different years, which say how alike two photos of one person are.
Most of them are white men. So that these alone do not set mean and variance, each group of people, by the gender and
ethnicity that Civil Services publishes, weighs the same:

    git clone https://github.com/CivilServiceUSA/us-house house
    git clone https://github.com/CivilServiceUSA/us-senate senate
    git -C house worktree add ../house-2017 e2ef0ad
    git -C house worktree add ../house-2019 922b97c
    git -C senate worktree add ../senate-2018 6aa13cb
    git -C senate worktree add ../senate-2020 7a81c80
    mcpkg weights --get face-api
    python -m mcpkg.factory.dlib_centre {house,house-2019,house-2017}/us-house/images/headshots/512x512 \\
        {senate,senate-2020,senate-2018}/us-senate/images/headshots/512x512 --leave-out henry-johnson \\
        --alias ben-lujan=ben-ray-lujan catherine-masto=catherine-cortez-masto patrick-tommey=patrick-toomey \\
        brian-shcatz=brian-schatz \\
        --groups {house-2017,house-2019,house}/us-house/data/us-house.json \\
        {senate-2018,senate-2020,senate}/us-senate/data/us-senate.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mcpkg.backends.downloads import require
from mcpkg.backends.faces.detector import load_landmark_parser
from mcpkg.backends.faces.dlib_net import CENTRE_FILE, CROP_PX, TEMPLATE, DlibEmbedder, DlibFaceNet, load_dlib_net
from mcpkg.data.image_folders import find_images
from mcpkg.method.face_alignment import align_faces
from mcpkg.method.interfaces import FaceParser
from mcpkg.util.errors import one_line_errors
from mcpkg.util.images import to_tensor
from mcpkg.util.safetensors_io import write_weights

PHOTOS = {
    "photos": "headshots of the 115th to 117th Congress of the United States, by Civil Services",
    "photos_licence": "MIT",
    "photos_from": "github.com/CivilServiceUSA/us-house abf6d4d 922b97c e2ef0ad, us-senate 9247c86 7a81c80 6aa13cb",
    "network": "dlib's, of @vladmandic/face-api 1.7.15",
}
"""What the photos are of which the file in the package is made."""
FOLDS = 5
SAME_PICTURE = 0.9
"""Correlation of two pictures, or of their aligned faces, from which they are taken for copies of one photo."""
SHRINKAGE = 0.3
"""Of the mean variance, what is added to the variance in each direction before whitening, so that noise does not
grow. From 0.03 to 1 the measured likeness is about the same."""
MIN_GROUP = 5
"""People of a group with fewer are one group together with those of whom no group is known."""
REST = "others"
HALF_WAY = 0.5  # of the scale: from there on a face counts as the person's


@dataclass(frozen=True)
class Photo:
    """One photo with a face."""

    person: str
    vector: Float[Tensor, " 128"]
    """By dlib's network."""
    crop: Float[Tensor, " n"]
    """The aligned face, small and grey, to find copies."""


@dataclass(frozen=True)
class Likeness:
    """How alike photos are, as cosines."""

    own: Float[Tensor, " n"]
    """Two photos of one person, a value per pair."""
    others: Float[Tensor, " m"]
    """Photos of two people."""
    within: Mapping[int, Float[Tensor, " k"]]
    """Of `others` those of two people of one group, by group."""
    one: float
    """Mean of `own`: where the scale has its 1."""

    def describe(self) -> str:
        own, others = self.own / self.one, self.others / self.one
        wrong = (self.own[:, None] <= self.others).double().mean()
        return (
            f"own:    cosine {self.own.mean():.3f}, on the scale {own.mean():.2f} +- {own.std():.2f}, least "
            f"{own.min():.2f}; {(own < HALF_WAY).double().mean():.1%} of {len(own)} pairs below {HALF_WAY}\n"
            f"others: cosine {self.others.mean():.3f}, on the scale {others.mean():.2f} +- {others.std():.2f}, most "
            f"{others.max():.2f}; {(others >= HALF_WAY).double().mean():.1%} of {len(others)} pairs from {HALF_WAY}\n"
            f"two strangers are more alike than two photos of one person in {wrong:.2%} of all comparisons"
        )

    def describe_groups(self, names: Sequence[str]) -> str:
        """A line per group: strangers who are both of it.

        Args:
            names: of the groups.
        """
        return "\n".join(
            f"  {name}: on the scale {(cosines / self.one).mean():.2f}, "
            f"{(cosines / self.one >= HALF_WAY).double().mean():.0%} of {len(cosines)} pairs from {HALF_WAY}"
            for name, cosines in zip(names, self.within.values(), strict=True)
        )


def read_photos(
    folders: Sequence[Path], parser: FaceParser, embedder: DlibEmbedder, aliases: Mapping[str, str]
) -> list[Photo]:
    """The photos that show one face; of copies, the first. A file's name without its ending names the person.

    Args:
        aliases: name -> another name of the same person, to use instead.
    """
    photos: list[Photo] = []
    whole: dict[str, list[Tensor]] = {}
    for path in tqdm([path for folder in folders for path in find_images(folder, at_least=1)], disable=None):
        with Image.open(path) as file:
            image = to_tensor(file.convert("RGB"))[None]
        person = aliases.get(path.stem, path.stem)
        seen = whole.setdefault(person, [])
        if is_copy(small := thumbnail(image), seen):
            continue
        seen.append(small)
        faces = parser.parse(image)
        if faces.count.item() != 1:
            continue
        crop = thumbnail(align_faces(image, faces.landmarks, TEMPLATE, CROP_PX))
        if not is_copy(crop, [photo.crop for photo in photos if photo.person == person]):
            photos.append(Photo(person, embedder.describe(image, faces.landmarks)[0], crop))
    return photos


def thumbnail(image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, " n"]:
    """Small, grey, and of mean 0 and length 1: a product of two is their correlation."""
    grey = functional.interpolate(image.mean(dim=1, keepdim=True), (40, 40), mode="area").flatten()
    return functional.normalize(grey - grey.mean(), dim=0)


def is_copy(picture: Float[Tensor, " n"], others: Sequence[Float[Tensor, " n"]]) -> bool:
    return any(picture @ other > SAME_PICTURE for other in others)


def fit(
    vectors: Float[Tensor, "n 128"], people: Int[Tensor, " n"], groups: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " 128"], Float[Tensor, "128 128"]]:
    """The mean over people, of the mean of their photos, and the matrix that makes their variance even.

    All groups weigh the same, and in a group all people.

    Args:
        people: whom each photo shows, numbered.
        groups: which group they belong to, numbered.
    """
    shown = [people == person for person in people.unique()]
    means = torch.stack([vectors[photos].mean(dim=0) for photos in shown])  # p 128
    group = torch.stack([groups[photos][0] for photos in shown])
    weights = 1 / group.bincount()[group]
    weights = (weights / weights.sum())[:, None]
    centre = (weights * means).sum(dim=0)
    covariance = (weights * (means - centre)).T @ (means - centre)
    added = SHRINKAGE * covariance.diagonal().mean()
    variances, axes = torch.linalg.eigh(covariance + added * torch.eye(128))
    return centre, axes @ (variances**-0.5).diag() @ axes.T


def measure(
    net: DlibFaceNet,
    vectors: Float[Tensor, "n 128"],
    people: Int[Tensor, " n"],
    groups: Int[Tensor, " n"],
    raw: bool = False,
) -> Likeness:
    """Cosines of pairs of photos of held-out people, with centre and whitening of the others, fold by fold.

    Args:
        people: whom each photo shows, numbered.
        groups: which group they belong to, numbered.
        raw: cosines of the vectors as they are, for comparison.
    """
    own, others, kinds = [], [], []
    for fold in range(FOLDS):
        held_out = people % FOLDS == fold
        rest = ~held_out
        embedder = DlibEmbedder(net) if raw else DlibEmbedder(net, *fit(vectors[rest], people[rest], groups[rest]))
        unit = embedder.unit(vectors[held_out])
        same: Bool[Tensor, "k k"] = people[held_out][:, None] == people[held_out]
        pairs = torch.ones_like(same).triu(diagonal=1)
        own.append((unit @ unit.T)[same & pairs])
        others.append((unit @ unit.T)[~same & pairs])
        group = groups[held_out]
        kinds.append(torch.where(group[:, None] == group, group, -1)[~same & pairs])
    cosines, strangers, kind = torch.cat(own), torch.cat(others), torch.cat(kinds)
    within = {number: strangers[kind == number] for number in groups.unique().tolist()}
    return Likeness(cosines, strangers, within, cosines.mean().item())


def read_groups(files: Sequence[Path]) -> dict[str, str]:
    """Name -> gender and ethnicity, as the files give them; where two files differ, the last.

    Raises:
        ValueError: a file is not a JSON list of people; the message names it.
    """
    groups = {}
    for path in files:
        try:
            people = json.loads(path.read_text(encoding="utf-8"))
            groups |= {who["name_slug"]: f"{who['gender']}, {who['ethnicity']}" for who in people if who["name_slug"]}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: no list of people with name_slug, gender and ethnicity.") from None
    return groups


@torch.no_grad()
def main(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    /,
    leave_out: tuple[str, ...] = (),
    alias: tuple[str, ...] = (),
    groups: tuple[Path, ...] = (),
    write: bool = False,
) -> None:
    """Print how alike photos of one person and of strangers are.

    Args:
        folders: of photos; files of the same name show the same person.
        leave_out: names under which there are photos of several people.
        alias: NAME=OTHER, two names of one person.
        groups: JSON files that give people's gender and ethnicity; without them all people are one group.
        write: also replace centre and whitening in the package.
    """
    if not folders:
        raise ValueError("no folder given. Name those that hold the photos.")
    if odd := [pair for pair in alias if "=" not in pair]:
        raise ValueError(f"--alias: {odd[0]!r} is not NAME=OTHER.")
    group_of = read_groups(groups)
    weights = require("face-api")
    net = load_dlib_net(weights)
    aliases = dict(pair.split("=", 1) for pair in alias)
    photos = [photo for photo in read_photos(folders, load_landmark_parser(weights), DlibEmbedder(net), aliases)
              if photo.person not in leave_out]  # fmt: skip
    names, numbers = number_groups({photo.person for photo in photos}, group_of)
    vectors, people = as_tensors(photos)
    group = torch.tensor([numbers[photo.person] for photo in photos])
    n_people = len(people.unique())
    print(f"{len(photos)} photos of {n_people} people; the 1 of the scale is the mean of two photos of one person")
    print(f"dlib's vectors as they are\n{measure(net, vectors, people, group, raw=True).describe()}")
    likeness = measure(net, vectors, people, group)
    print(f"with centre and whitening of other people\n{likeness.describe()}\nstrangers of one group")
    print(likeness.describe_groups(names))
    if write:
        centre, whitening = fit(vectors, people, group)
        write_weights({"centre": centre, "whitening": whitening}, CENTRE_FILE, PHOTOS | {"people": str(n_people)})
        print(f"wrote {CENTRE_FILE.name}", file=sys.stderr)


def number_groups(people: Collection[str], group_of: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The names of the groups, and for each person the number of theirs."""
    sizes = Counter(group_of.get(person, REST) for person in people)
    named = {person: group_of.get(person, REST) for person in people}
    named = {person: group if sizes[group] >= MIN_GROUP else REST for person, group in named.items()}
    names = sorted(set(named.values()))
    return names, {person: names.index(group) for person, group in named.items()}


def as_tensors(photos: Sequence[Photo]) -> tuple[Float[Tensor, "n 128"], Int[Tensor, " n"]]:
    """The vector of each photo, and the place of its person's name among all names."""
    names = sorted({photo.person for photo in photos})
    people = torch.tensor([names.index(photo.person) for photo in photos])
    return torch.stack([photo.vector for photo in photos]), people


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main, prog="python -m mcpkg.factory.dlib_centre", description=__doc__)
