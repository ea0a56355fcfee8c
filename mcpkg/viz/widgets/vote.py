"""The blind side-by-side vote: two pictures, one question, and the methods are hidden."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ipywidgets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from mcpkg.metrics.user_study import (
    QUESTIONS,
    Preference,
    Trial,
    Vote,
    plan_trials,
    read_votes,
    summarise_votes,
    trials_left,
    write_votes,
)
from mcpkg.util.images import to_pixels
from mcpkg.viz.widgets.panel import Panel, labelled

SHOWN = 3  # pictures of the person or the style above a pair


class BlindVote(Panel):
    """Trials one after the other, each vote saved at once; the results are shown only at the end."""

    def __init__(
        self,
        images: Mapping[str, Float[Tensor, "n 3 h w"]],
        path: str | Path,
        source: Float[Tensor, "s 3 h w"] | None = None,
        reference: Float[Tensor, "r 3 h w"] | None = None,
        rater: str = "",
        seed: int = 0,
    ):
        """
        Args:
            images: method -> its pictures; two methods, the same seeds in the same order.
            path: CSV file of the votes; its votes are kept, and a rater continues where they stopped.
            source: pictures of the person; without them, there is no question about identity.
            reference: pictures of the style; without them, there is no question about style.
            rater: pseudonym of the person who votes; not the real name, unless they agreed.
            seed: of the order of trials and of the sides.

        Raises:
            ValueError: not two methods, or different numbers of pictures.
        """
        if len(images) != 2 or len({len(of_method) for of_method in images.values()}) != 1:
            counts = {name: len(of_method) for name, of_method in images.items()}
            raise ValueError(f"images: {counts}. Give two methods with the same number of pictures.")
        self.images, self.path, self.seed = dict(images), Path(path), seed
        self.examples = {"identity": source, "style": reference}
        questions = [question for question in QUESTIONS if self.examples.get(question, True) is not None]
        self.trials = plan_trials(tuple(images), len(next(iter(images.values()))), seed, questions)
        self.votes = read_votes(self.path)
        self.rater = labelled(ipywidgets.Text, "rater", value=rater, placeholder="a pseudonym",
                              continuous_update=False)  # fmt: skip
        self.left, self.tie, self.right = (
            ipywidgets.Button(description=text, tooltip=text, layout={"width": "12em"})
            for text in ("left", "cannot tell", "right")
        )
        for button, choice in ((self.left, "left"), (self.tie, "tie"), (self.right, "right")):
            button.on_click(lambda _, choice=choice: self.vote(choice))
        super().__init__([[self.rater], [self.left, self.tie, self.right]], [self.rater])

    @property
    def trial(self) -> Trial | None:
        """The next trial; None when all are done."""
        return next(iter(trials_left(self.trials, self.votes, self.rater.value)), None)

    @property
    def results(self) -> list[Preference]:
        """The preferences over all raters in the file."""
        return summarise_votes(self.votes, tuple(self.images))

    def vote(self, choice: str) -> None:
        """Save a vote on the current trial, as the buttons do; after the last trial, do nothing.

        Args:
            choice: "left", "right" or "tie".
        """
        if self._has_rater and (trial := self.trial) is not None:
            # read again: another rater may have added votes to the same file in the meantime
            self.votes = [*read_votes(self.path), Vote(self.rater.value, *trial, choice)]
            write_votes(self.votes, self.path)
        self.refresh()

    def refresh(self, change: object = None) -> None:
        for button in (self.left, self.tie, self.right):
            button.disabled = self.trial is None or not self._has_rater
        super().refresh(change)

    @property
    def _has_rater(self) -> bool:
        """Whether a name is given; without it, votes of different raters could not be distinguished."""
        return bool(self.rater.value.strip())

    @property
    def reading(self) -> str:
        if not self._has_rater:
            return "Enter a rater's name first, not your real name."
        if (trial := self.trial) is not None:
            left = len(trials_left(self.trials, self.votes, self.rater.value))
            return f"{len(self.trials) - left + 1} of {len(self.trials)}: {QUESTIONS[trial.question]}"
        return "; ".join(_describe(result) for result in self.results)

    def figure(self) -> Figure:
        return self._results() if self.trial is None else self._pair(self.trial)

    def _pair(self, trial: Trial) -> Figure:
        pictures = self.examples.get(trial.question)
        examples = [] if pictures is None else list(pictures[:SHOWN])
        figure = Figure(figsize=(6, 3.2 + 1.5 * bool(examples)), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.5, 3)) if examples else (None, figure)
        for axis, image in zip(upper.subplots(1, len(examples), squeeze=False)[0] if examples else (), examples):
            axis.imshow(to_pixels(image))
            axis.set_axis_off()
        if examples:
            upper.suptitle("the person" if trial.question == "identity" else "the style", fontsize=9)
        for axis, side in zip(lower.subplots(1, 2), ("left", "right"), strict=True):
            axis.imshow(to_pixels(self.images[getattr(trial, side)][trial.index]))
            axis.set_title(side, fontsize=10)
            axis.set_axis_off()
        return figure

    def _results(self) -> Figure:
        results = self.results
        figure = Figure(figsize=(7, 1.0 + 0.5 * len(results)), layout="constrained")
        axis = figure.subplots()
        for row, result in enumerate(results):
            axis.plot([result.low, result.high], [row, row], color="C0", linewidth=3)
            axis.plot([result.fraction], [row], "o", color="C0", markersize=8)
        axis.axvline(0.5, color="grey", linestyle="--", linewidth=1)
        labels = [f"{result.question}\n{result.n} votes, ties: {result.ties}" for result in results]
        axis.set(xlim=(0, 1), ylim=(len(results) - 0.5, -0.5), yticks=range(len(results)), yticklabels=labels)
        axis.set_xlabel(f"fraction of votes for {next(iter(self.images))}, with its 95 % interval")
        return figure


def _describe(result: Preference) -> str:
    votes = f"{result.n} votes, ties: {result.ties}"
    if result.n == 0:
        return f"{result.question}: only ties ({votes})"
    interval = f"[{result.low:.2f}, {result.high:.2f}]"
    return f"{result.question}: {result.fraction:.2f} {interval} prefer {result.first} ({votes})"
