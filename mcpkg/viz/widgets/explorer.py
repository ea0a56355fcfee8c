"""The attention explorer: where is a placeholder attended to, in which layer and head, and when?"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import ipywidgets
from matplotlib.figure import Figure

from mcpkg.metrics.attention_trace import AttentionTrace
from mcpkg.util.images import overlay, to_pixels
from mcpkg.viz.widgets.panel import Panel, labelled

MS_PER_STEP = 600
ALL = "all"  # a selection slider has no None


class AttentionExplorer(Panel):
    """One placeholder's attention over a portrait, at one timestep or over all, with the leakage of just that map."""

    def __init__(self, traces: AttentionTrace | Mapping[str, AttentionTrace]):
        """
        Args:
            traces: from `record_attention`; several by the name of their method, to switch between.
        """
        self.traces = dict(traces) if isinstance(traces, Mapping) else {"": traces}
        first = next(iter(self.traces.values()))
        self.method = labelled(ipywidgets.Dropdown, "method", options=list(self.traces))
        options = [(token, role) for role, token in first.tokens.items()]
        self.role = labelled(ipywidgets.Dropdown, "placeholder", options=options)
        everywhere = f"all of {first.size} x {first.size}"
        layers = [(everywhere, ALL), *((_short(name, first), name) for name in first.maps.layers)]
        self.layer = labelled(ipywidgets.Dropdown, "layer", width="34em", options=layers)
        self.head = labelled(ipywidgets.SelectionSlider, "head", options=self._heads())
        self.timestep = labelled(ipywidgets.SelectionSlider, "timestep", options=self._timesteps())
        self.mask = labelled(ipywidgets.Checkbox, "draw the edge of the placeholder's region", "0", value=True)
        self.play = ipywidgets.Play(max=len(first.timesteps), interval=MS_PER_STEP, description="play")
        ipywidgets.link((self.play, "value"), (self.timestep, "index"))
        self.layer.observe(self._other_layer, names="value")
        self.method.observe(self._other_trace, names="value")
        rows = [
            [self.role],
            [self.layer],
            [self.head],
            [self.timestep, ipywidgets.Label("play:"), self.play],
            [self.mask],
        ]
        watched = [self.role, self.layer, self.head, self.timestep, self.mask]
        if len(self.traces) > 1:
            rows[0].insert(0, self.method)
        super().__init__(rows, [*watched, self.method])

    @property
    def trace(self) -> AttentionTrace:
        return self.traces[self.method.value]

    @property
    def which(self) -> dict[str, str | int | None]:
        """Layer, head and timestep, as `AttentionTrace.heatmap` takes them."""
        chosen = {"layer": self.layer.value, "head": self.head.value, "timestep": self.timestep.value}
        return {name: None if value == ALL else value for name, value in chosen.items()}

    @property
    def leakage(self) -> float:
        """Of the map that is shown."""
        return self.trace.leakage(self.role.value, **self.which)

    @property
    def reading(self) -> str:
        role, token, trace = self.role.value, self.role.label, self.trace
        if not trace.regions[role].any():
            return f"leakage of {token}: not defined, because the portrait does not show exactly one face"
        return (
            f"leakage of {token}: {self.leakage:.2f} (of attention that is the same everywhere: "
            f"{trace.area_outside(role):.2f}; mean attention in its region: {trace.mass(role, **self.which):.2f}); "
            f"{self.method.value or 'portrait'}, "
            f"layers: {self.layer.label}, heads: {self.head.label}, t: {self.timestep.label}"
        )

    def figure(self) -> Figure:
        role, token, trace = self.role.value, self.role.label, self.trace
        region = trace.regions[role][0, 0]
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        portrait, heatmap, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
        portrait.imshow(to_pixels(trace.image))
        portrait.set_title(fill(self.method.value, 30) or "portrait", fontsize=9)
        heatmap.imshow(overlay(trace.image, trace.heatmap(role, **self.which)))
        t, head = self.which["timestep"], self.which["head"]
        at = "all timesteps" if t is None else f"t = {t}"
        heatmap.set_title(f"{token}, {at}: leakage {self.leakage:.2f}", fontsize=9)
        for axis in (portrait, heatmap):
            axis.set_axis_off()
            if self.mask.value and region.any():
                axis.contour(region.numpy(), levels=[0.5], colors="cyan", linewidths=1)
        of_map = {name: value for name, value in self.which.items() if name != "timestep"}
        curve.plot(trace.timesteps, [trace.leakage(role, **of_map, timestep=t) for t in trace.timesteps], ".-")
        curve.axhline(trace.area_outside(role), color="grey", linestyle="--", linewidth=1, label="the same everywhere")
        if t is not None:
            curve.plot([t], [self.leakage], "o", color="firebrick", markersize=9)
        curve.set(xlim=(max(trace.timesteps) * 1.03, -20), ylim=(0, 1), xlabel="timestep: drawing goes to the right")
        curve.set_title(
            f"leakage of {token}, {self.layer.label}, {'all heads' if head is None else f'head {head}'}", fontsize=9
        )
        curve.legend(fontsize=8)
        return figure

    def _heads(self) -> list[tuple[str, str | int]]:
        layer = None if self.layer.value == ALL else self.layer.value
        heads = self.trace.maps.head_count(layer, self.trace.size)
        return [(ALL, ALL), *((str(i), i) for i in range(heads))]

    def _timesteps(self) -> list[tuple[str, str | int]]:
        return [(ALL, ALL), *((str(t), t) for t in self.trace.timesteps)]

    def _other_layer(self, change: object) -> None:
        """Layers may differ in their number of heads; a new list of options would also choose its first."""
        if self._heads() != list(self.head.options):
            self.head.options = self._heads()

    def _other_trace(self, change: object) -> None:
        """Two traces may have been drawn in different steps."""
        if self._timesteps() != list(self.timestep.options):
            self.timestep.options = self._timesteps()
            self.play.max = len(self.trace.timesteps)


def _short(layer: str, trace: AttentionTrace) -> str:
    """Layer names without what they all have in common, and the grid."""
    maps = next(iter(trace.maps.maps.values()))[layer]
    return f"{layer.partition('.transformer_blocks')[0]} ({maps.shape[-1]} x {maps.shape[-2]})"
