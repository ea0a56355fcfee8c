"""What all widgets share: labelled controls, a line that says what is shown, and a picture with a static twin."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import ipywidgets
from matplotlib.figure import Figure

DPI = 80  # sharp enough to read, and small in a stored notebook
LABEL_WIDTH, CONTROL_WIDTH = "7.5em", "25em"


def labelled(kind: type, label: str, label_width: str = LABEL_WIDTH, width: str = CONTROL_WIDTH, **options):
    """A control with its label beside it, whole; every control here is reached and moved with the keyboard alone."""
    return kind(
        description=label, style={"description_width": label_width}, layout={"width": width, "max_width": "100%"},
        **options,
    )  # fmt: skip


class Panel(ipywidgets.VBox):
    """Controls above, then the reading, then the picture. Subclasses give `figure` and `reading`.

    Where no kernel runs, a stored notebook shows the picture as it was, and plain text shows the reading.
    """

    def __init__(self, rows: Sequence[Sequence[ipywidgets.Widget]], watched: Sequence[ipywidgets.Widget]):
        """
        Args:
            rows: controls, those of a row side by side as far as there is room.
            watched: a change of their value draws anew.
        """
        self._line, self._picture = ipywidgets.HTML(), ipywidgets.HTML()
        boxes = [ipywidgets.HBox(list(row), layout={"flex_flow": "row wrap"}) for row in rows]
        super().__init__([*boxes, self._line, self._picture])
        for control in watched:
            control.observe(self.refresh, names="value")
        self.refresh()

    @property
    def reading(self) -> str:
        """What is shown now, in words and numbers."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """What is shown now."""
        raise NotImplementedError

    def refresh(self, change: object = None) -> None:
        """Draw anew."""
        said = html.escape(self.reading)
        # a screen reader speaks a status when it changes
        self._line.value = f'<div role="status" aria-live="polite" class="mcpkg-reading"><b>{said}</b></div>'
        picture = base64.b64encode(png(self.figure())).decode()
        self._picture.value = f'<img alt="{said}" style="max-width: 100%" src="data:image/png;base64,{picture}">'

    def _repr_mimebundle_(self, **kwargs) -> dict[str, str]:
        live = super()._repr_mimebundle_(**kwargs)
        picture = base64.b64encode(png(self.figure())).decode()
        return {**live, "text/plain": self.reading, "image/png": picture}


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()
