"""The attention loss lab: the gradient of an attention loss on a map, and the map after some steps of it."""

from __future__ import annotations

import ipywidgets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.method.config import REFOCUSING_FORMS, REFOCUSING_SCALES, Refocusing
from mcpkg.metrics.loss_dynamics import Refocused, refocus
from mcpkg.viz.widgets.panel import Panel, labelled

STEPS = 60


class AttentionLossLab(Panel):
    """Form, S and weight of the loss, and its steps; the map, the gradient, and leakage and attention on the way."""

    def __init__(self, maps: Float[Tensor, "1 heads h w"], mask: Float[Tensor, "1 1 H W"]):
        """
        Args:
            maps: one placeholder's, every head by itself, such as `AttentionTrace.heads` gives.
            mask: where it may be attended to.
        """
        self.maps, self.mask, self._done = maps, mask, {}
        self.form = labelled(ipywidgets.Dropdown, "loss form", options=list(REFOCUSING_FORMS.names))
        self.scale = labelled(ipywidgets.Dropdown, "S of Eq. 8", options=list(REFOCUSING_SCALES))
        self.weight = labelled(ipywidgets.FloatSlider, "weight", value=2.5, max=5, step=0.25)
        self.steps = labelled(ipywidgets.IntSlider, "steps", value=0, max=STEPS)
        self.form.observe(self._scale_counts, names="value")
        rows = [[self.form, self.scale], [self.weight, self.steps]]
        super().__init__(rows, [self.form, self.scale, self.weight, self.steps])

    @property
    def result(self) -> Refocused:
        """What `refocus` gives for the settings that are shown."""
        scale = self.scale.value if Refocusing(form=self.form.value).takes_scale else "max"
        settings = Refocusing(self.weight.value, self.form.value, scale), self.steps.value
        if self._done.get("settings") != settings:
            self._done = {"settings": settings, "result": refocus(self.maps, self.mask, *settings)}
        return self._done["result"]

    @property
    def reading(self) -> str:
        result, steps = self.result, self.steps.value
        s = f", S = {self.scale.value}" if self.form.value == "mask" else ""
        return (
            f"{self.form.value}{s}, weight {self.weight.value:g}, {steps} step{'' if steps == 1 else 's'}: "
            f"loss {result.loss[-1]:.3f}, leakage {result.leakage[0]:.2f} to {result.leakage[-1]:.2f}, "
            f"mean attention in the mask {result.mass[0]:.2f} to {result.mass[-1]:.2f}"
        )

    def figure(self) -> Figure:
        result = self.result
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        heatmap, push, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
        mean = result.maps[0].mean(dim=0).numpy()  # h w
        gradient = result.gradient[0].sum(dim=0).numpy()  # h w
        most = max(abs(gradient).max(), 1e-12)
        figure.colorbar(heatmap.imshow(mean, cmap="magma", vmin=0), ax=heatmap, shrink=0.8)
        heatmap.set_title("attention, mean over heads", fontsize=9)
        figure.colorbar(push.imshow(gradient, cmap="RdBu_r", vmin=-most, vmax=most), ax=push, shrink=0.8)
        push.set_title("gradient on the scores: red falls, blue rises", fontsize=9)
        h, w = mean.shape
        for axis in (heatmap, push):
            axis.set_axis_off()
            axis.contour(self.mask[0, 0].numpy(), levels=[0.5], colors="cyan", linewidths=1,
                         extent=(-0.5, w - 0.5, -0.5, h - 0.5))  # fmt: skip
        steps = range(len(result.leakage))
        curve.plot(steps, result.leakage, ".-", label="leakage")
        curve.plot(steps, result.mass, ".-", label="mean attention in the mask")
        curve.set(xlim=(-1, max(STEPS, len(steps))), ylim=(0, 1), xlabel="step")
        curve.legend(fontsize=8)
        return figure

    def _scale_counts(self, change: object) -> None:
        """S is a choice of Eq. 8 only."""
        self.scale.disabled = not Refocusing(form=self.form.value).takes_scale
