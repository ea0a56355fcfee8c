"""The base of all widgets: labelled controls, a line that describes the figure, and the figure with a static copy."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import ipywidgets
from matplotlib.figure import Figure

from mcpkg.util.images import write_figure

DPI = 80  # readable, and a small file in a stored notebook
LABEL_WIDTH, CONTROL_WIDTH = "7.5em", "25em"


def labelled(kind: type, label: str, label_width: str = LABEL_WIDTH, width: str = CONTROL_WIDTH, **options):
    """Return a control with its whole label beside it; use only kinds that can be operated with the keyboard alone."""
    return kind(
        description=label, style={"description_width": label_width}, layout={"width": width, "max_width": "100%"},
        **options,
    )  # fmt: skip


class Panel(ipywidgets.VBox):
    """Controls, below them the reading, below it the figure. Subclasses define `figure` and `reading`.

    Without a kernel, a stored notebook shows the last figure, and its plain text is the reading.
    """

    def __init__(self, rows: Sequence[Sequence[ipywidgets.Widget]], watched: Sequence[ipywidgets.Widget]):
        """
        Args:
            rows: controls, those of a row side by side where the width allows.
            watched: controls whose changes redraw the figure.
        """
        self._line, self._picture = ipywidgets.HTML(), ipywidgets.HTML()
        boxes = [ipywidgets.HBox(list(row), layout={"flex_flow": "row wrap"}) for row in rows]
        super().__init__([*boxes, self._line, self._picture])
        for control in watched:
            control.observe(self.refresh, names="value")
        self.refresh()

    @property
    def reading(self) -> str:
        """The figure in words and numbers."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """Draw the figure for the current values of the controls."""
        raise NotImplementedError

    def refresh(self, change: object = None) -> None:
        """Update the reading and the figure."""
        text = html.escape(self.reading)
        # a screen reader reads a status aloud when it changes
        self._line.value = f'<div role="status" aria-live="polite" class="mcpkg-reading"><b>{text}</b></div>'
        picture = base64.b64encode(png(self.figure())).decode()
        self._picture.value = f'<img alt="{text}" style="max-width: 100%" src="data:image/png;base64,{picture}">'

    def _repr_mimebundle_(self, **kwargs) -> dict[str, str]:
        live = super()._repr_mimebundle_(**kwargs)
        picture = base64.b64encode(png(self.figure())).decode()
        return {**live, "text/plain": self.reading, "image/png": picture}


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    file = io.BytesIO()
    write_figure(figure, file, DPI)
    return file.getvalue()
