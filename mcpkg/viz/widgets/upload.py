"""Upload photos of a person who agreed to it; until then, sample pictures are used."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
from matplotlib.figure import Figure

from mcpkg.data.image_files import open_picture
from mcpkg.data.image_folders import SUFFIXES, find_images
from mcpkg.data.uploads import delete_uploads, save_uploads
from mcpkg.viz.widgets.panel import Panel, labelled

RENDERED = "Rendered pictures; they show no real person."
SHOWN = 8  # thumbnails, at most
THUMBNAIL_PX = 128


class PhotoUpload(Panel):
    """Photos, a statement of who agreed to what, and a box to tick. Nothing is saved before all three are given."""

    def __init__(self, folder: str | Path, sample: str | Path):
        """
        Args:
            folder: where uploaded photos are saved, see `save_uploads`.
            sample: folder of pictures to use until photos are uploaded.
        """
        self._uploads, self.sample = Path(folder), Path(sample)
        self.photos = ipywidgets.FileUpload(
            accept=",".join(SUFFIXES), multiple=True, description="Choose photos", layout={"width": "14em"}
        )
        self.statement = labelled(ipywidgets.Text, "who agreed to what", "10em", "40em", continuous_update=False,
                                  placeholder="I am in these photos myself; for this workshop only")  # fmt: skip
        self.agreed = labelled(ipywidgets.Checkbox, "The person in the photos agreed to this use", "0", "30em")
        self.delete = ipywidgets.Button(description="Delete uploaded photos", layout={"width": "14em"})
        self.delete.on_click(lambda _: self.forget())
        rows = [[self.photos, self.delete], [self.statement], [self.agreed]]
        super().__init__(rows, [self.photos, self.statement, self.agreed])

    @property
    def folder(self) -> Path:
        """The folder to load: the uploaded photos if there is consent, else the sample."""
        return self._uploads if self._ready else self.sample

    @property
    def consent(self) -> str:
        """Who agreed to what, for reports and model cards."""
        return self.statement.value.strip() if self._ready else RENDERED

    def forget(self) -> None:
        """Delete the uploaded photos, in the widget and on the disk, and use the sample again."""
        self.agreed.value = False
        self.photos.value = ()
        self._clear()

    def refresh(self, change: object = None) -> None:
        if change is not None:
            self._clear()  # other photos, or consent withdrawn
        if self._ready:
            photos = [(Path(photo["name"]).suffix.lower(), bytes(photo["content"])) for photo in self._usable]
            save_uploads(photos, self._uploads)
        super().refresh(change)

    @property
    def reading(self) -> str:
        n = len(self._usable)
        left_out = ", ".join(photo["name"] for photo in self.photos.value if photo not in self._usable)
        if left_out:
            return f"{left_out}: not PNG, JPEG or WebP. Save as one of these and choose again."
        if self._ready:
            return f"{n} photos in {self._uploads.name}. Consent: {self.consent}"
        if n:
            return f"{n} photos chosen: state who agreed to what, and tick the box. Nothing is saved yet."
        return f"Nothing uploaded; the sample {self.sample.name} is used. {RENDERED}"

    def figure(self) -> Figure:
        paths = find_images(self.folder, at_least=1)[:SHOWN]
        figure = Figure(figsize=(1.5 * len(paths), 1.6), layout="constrained")
        for axis, path in zip(figure.subplots(1, len(paths), squeeze=False)[0], paths, strict=True):
            axis.set_axis_off()
            axis.set_title(path.name, fontsize=8)
            try:
                picture = open_picture(path).rgb
            except (OSError, ValueError):
                axis.text(0.5, 0.5, "cannot be read", ha="center", fontsize=8, color="firebrick")
                continue
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            axis.imshow(picture)
        return figure

    @property
    def _usable(self) -> list[dict]:
        return [photo for photo in self.photos.value if Path(photo["name"]).suffix.lower() in SUFFIXES]

    @property
    def _ready(self) -> bool:
        return bool(self._usable and self.agreed.value and self.statement.value.strip())

    def _clear(self) -> None:
        """Delete photos uploaded before; other files in the folder are kept."""
        delete_uploads(self._uploads)
