"""The portrait builder: set a person and a look of the rendered world by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Generator

from mcpkg.data.portraits import Portraits, load_portraits
from mcpkg.method.interfaces import Backend
from mcpkg.util.images import to_pixels
from mcpkg.viz.widgets.panel import Panel, labelled
from mcpkg.world.attributes import (
    ATTRIBUTES,
    IDENTITY,
    MONK_TONES,
    Looks,
    People,
    sample_nuisance,
    skin_to_tone,
    tone_to_skin,
)
from mcpkg.world.population import BALANCED
from mcpkg.world.render import render_portraits
from mcpkg.world.samples import NUISANCE_SEED, PHOTOS, everyday_looks, reference_people, write_sample

PREVIEW_PX = 128
PRESENTATIONS = ("feminine", "masculine")
LABEL_WIDTH, CONTROL_WIDTH = "10.5em", "21em"


class PortraitBuilder(Panel):
    """A slider for each trait of the face and a list for each part of the look; renders both as training pictures."""

    def __init__(self, seed: int = 0):
        """
        Args:
            seed: of the initial person, and of the nuisance parameters of the pictures.
        """
        self.seed = seed
        start = BALANCED.people(1, Generator().manual_seed(seed))
        self.face = {
            name: labelled(ipywidgets.FloatSlider, name.replace("_", " "), LABEL_WIDTH, CONTROL_WIDTH,
                           value=round(start.shape[0, i].item(), 1), min=-1, max=1, step=0.1, readout_format=".1f")
            for i, name in enumerate(IDENTITY) if name != "skin"
        }  # fmt: skip
        self.tone = labelled(ipywidgets.IntSlider, "Monk skin tone", LABEL_WIDTH, CONTROL_WIDTH,
                             value=round(skin_to_tone(start.skin).item()), min=1, max=MONK_TONES)  # fmt: skip
        presentation = PRESENTATIONS[int(not start.feminine.item())]
        self.presentation = labelled(ipywidgets.Dropdown, "presenting as", LABEL_WIDTH, CONTROL_WIDTH,
                                     options=PRESENTATIONS, value=presentation)  # fmt: skip
        self.look_values = {
            name: labelled(ipywidgets.Dropdown, name.replace("_", " "), LABEL_WIDTH, CONTROL_WIDTH,
                           options=choices, value=choices[1 if name == "hair" else 0])
            for name, choices in ATTRIBUTES.items()
        }  # fmt: skip
        person, look = [self.presentation, self.tone, *self.face.values()], list(self.look_values.values())
        super().__init__([person, look], [*person, *look])

    @property
    def people(self) -> People:
        """The person, a batch of one."""
        values = {name: slider.value for name, slider in self.face.items()}
        values["skin"] = tone_to_skin(self.tone.value)
        feminine = self.presentation.value == "feminine"
        values["beard"] = -1.0 if feminine else values["beard"]
        shape = torch.tensor([[values[name] for name in IDENTITY]])
        return People(shape, torch.tensor([feminine]), torch.tensor([False]))

    @property
    def looks(self) -> Looks:
        """The look, a batch of one."""
        return Looks.of(**{name: choice.value for name, choice in self.look_values.items()})

    def save(self, folder: str | Path, role: str = "source") -> Path:
        """Write pictures and face masks in the format of `data_samples/`.

        Args:
            role: "source", this person with this hair in everyday looks; or "reference", this look worn by others.

        Returns:
            The folder.

        Raises:
            ValueError: unknown role.
        """
        if role == "source":
            people, looks = self.people.repeat(PHOTOS), self._everyday_looks()
        elif role == "reference":
            people, looks = reference_people(self.seed), self.looks.repeat(PHOTOS)
        else:
            raise ValueError(f"role: {role!r} unknown. Choose 'source' or 'reference'.")
        write_sample(people, looks, self.seed, Path(folder))
        return Path(folder)

    def portraits(self, backend: Backend, role: str = "source") -> Portraits:
        """Return the same pictures, loaded, without keeping files."""
        with tempfile.TemporaryDirectory() as folder:
            return load_portraits(self.save(folder, role), backend)

    @property
    def reading(self) -> str:
        look = {name: choice.value for name, choice in self.look_values.items()}
        accessory = "" if look["accessory"] == "none" else f", {look['accessory']}"
        return (
            f"{self.presentation.value}-presenting person, Monk tone {self.tone.value}, {_hair(look)}; "
            f"{look['garment_colour']} {look['garment']}{accessory}, {look['background_colour']} {look['background']} "
            f"background, {look['treatment']} treatment"
        )

    def figure(self) -> Figure:
        people = self.people
        varied = sample_nuisance(PHOTOS, Generator().manual_seed(NUISANCE_SEED + self.seed))
        plain = sample_nuisance(1, Generator().manual_seed(self.seed), spread=0.0)
        built = render_portraits(people, self.looks, plain, PREVIEW_PX).image
        source = render_portraits(people.repeat(PHOTOS), self._everyday_looks(), varied, PREVIEW_PX).image
        figure = Figure(figsize=(9.6, 2.0), layout="constrained")
        for i, (axis, image) in enumerate(zip(figure.subplots(1, 1 + PHOTOS), (*built, *source), strict=True)):
            axis.imshow(to_pixels(image))
            axis.set_title("in this look" if i == 0 else f"everyday {i}", fontsize=9)
            axis.set_axis_off()
        return figure

    def _everyday_looks(self) -> Looks:
        """Return everyday looks with the hair that is set."""
        return everyday_looks(self.look_values["hair"].value, self.look_values["hair_colour"].value)


def _hair(look: dict[str, str]) -> str:
    return "bald" if look["hair"] == "bald" else f"{look['hair_colour']} hair ({look['hair']})"
