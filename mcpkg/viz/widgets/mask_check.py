"""The mask check as a widget: look at each mask, correct it or remove its picture."""

from __future__ import annotations

import ipywidgets
from matplotlib.figure import Figure

from mcpkg.data.mask_check import MaskFinding, change_masks, diagnose_masks
from mcpkg.data.portraits import Portraits
from mcpkg.method.interfaces import Backend
from mcpkg.viz.sheets import mask_check_sheet
from mcpkg.viz.widgets.panel import Panel, labelled

REACH_PX = 24
LABEL_WIDTH, CONTROL_WIDTH = "5.5em", "17em"


class MaskCheck(Panel):
    """One row of controls per image; the sheet below shows masks and findings of the images that are kept."""

    def __init__(self, backend: Backend, portraits: Portraits, role: str = "source"):
        """
        Args:
            portraits: loaded with strict=False, or loading raises on the worst masks before they can be checked.
            role: "source" trains inside the face and "reference" outside it.
        """
        self.backend, self.original, self.role, self._cache = backend, portraits, role, {}

        def sliders(label: str, what: str) -> list[ipywidgets.IntSlider]:
            return [
                labelled(ipywidgets.IntSlider, label, LABEL_WIDTH, CONTROL_WIDTH, min=-REACH_PX, max=REACH_PX,
                         readout_format="d", continuous_update=False, tooltip=f"{what} the mask of {path.name}, pixels")
                for path in portraits.paths
            ]  # fmt: skip

        self.keep = [
            labelled(ipywidgets.Checkbox, f"keep {path.name}", "0", "12em", value=True) for path in portraits.paths
        ]
        self.grow = sliders("grow, px", "grow")
        self.right = sliders("right, px", "move right")
        self.down = sliders("down, px", "move down")
        rows = list(zip(self.keep, self.grow, self.right, self.down, strict=True))
        super().__init__(rows, [control for row in rows for control in row])

    @property
    def portraits(self) -> Portraits:
        """The portraits that are kept, with corrected masks: train on these.

        Raises:
            ValueError: fewer than two are kept.
        """
        return change_masks(self.original, *self._settings())

    @property
    def findings(self) -> list[MaskFinding]:
        """Findings on the portraits that are kept."""
        portraits, settings = self.portraits, self._settings()
        if self._cache.get("settings") != settings:
            self._cache = {"settings": settings, "findings": diagnose_masks(self.backend, portraits, self.role)}
        return self._cache["findings"]

    @property
    def reading(self) -> str:
        try:
            findings = self.findings
        except ValueError as error:
            return str(error)
        covered = ", ".join(f"{f.path.name} {f.coverage['pixels']:.0%}" for f in findings)
        warnings = sum(bool(f.warnings) for f in findings)
        return f"{len(findings)} of {len(self.original)} images kept, {warnings} with a warning; masks cover {covered}"

    def figure(self) -> Figure:
        try:
            return mask_check_sheet(self.portraits, self.findings)
        except ValueError as error:
            figure = Figure(figsize=(6, 0.6))
            figure.text(0.02, 0.4, str(error), color="firebrick")
            return figure

    def _settings(self) -> list[list[int]]:
        """Return the arguments of `change_masks`."""
        return [[control.value for control in column] for column in (self.keep, self.grow, self.right, self.down)]
