"""A blind side-by-side vote: a plan of trials, the votes in a CSV file, and a summary of them.

The paper's user study (Table 2) asks for ratings from 1 to 5 for identity, style and fidelity. Here raters choose
between two pictures, which needs fewer raters and no agreement on the meaning of a 3.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from mcpkg.util.files import replace_whole
from mcpkg.util.statistics import wilson_interval

QUESTIONS = {
    "identity": "Which one looks more like the person?",
    "style": "Which one looks more like the style?",
    "fidelity": "Which one is the better picture?",
}
"""The three aspects of the paper's Table 2."""
CHOICES = ("left", "right", "tie")


class Trial(NamedTuple):
    """One question about one pair of pictures."""

    question: str
    index: int
    """Index of the picture among those of each method."""
    left: str
    """Method of the picture on the left."""
    right: str


class Vote(NamedTuple):
    """The choice of a rater in a trial."""

    rater: str
    question: str
    index: int
    left: str
    right: str
    choice: str


@dataclass(frozen=True)
class Preference:
    """How often the first method was preferred, among votes that preferred one; with Wilson's 95 % interval."""

    question: str
    first: str
    second: str
    fraction: float
    low: float
    high: float
    n: int
    """Votes that preferred one."""
    ties: int


def plan_trials(methods: Sequence[str], n: int, seed: int, questions: Sequence[str] = tuple(QUESTIONS)) -> list[Trial]:
    """Plan every question about every pair once; order and sides depend only on the seed.

    Each method is on the left in half of a question's trials, or in one more or fewer if their number is odd.

    Args:
        methods: two names.
        n: pictures of each method.
    """
    first, second = methods
    rng = torch.Generator().manual_seed(seed)
    trials = []
    for question in questions:
        on_left = torch.randperm(n, generator=rng) % 2 == torch.randint(2, (1,), generator=rng)
        trials += [Trial(question, i, *((first, second) if on_left[i] else (second, first))) for i in range(n)]
    return [trials[i] for i in torch.randperm(len(trials), generator=rng).tolist()]


def summarise_votes(votes: Iterable[Vote], methods: Sequence[str]) -> list[Preference]:
    """Compute one preference per question that has votes on these two methods, over all raters.

    Note:
        The interval assumes independent votes. Votes of one rater are not independent, so it is too narrow with few
        raters.
    """
    first, second = methods
    chosen: dict[str, list[str | None]] = {}
    for vote in votes:
        if {vote.left, vote.right} == {first, second}:
            method = {"left": vote.left, "right": vote.right, "tie": None}[vote.choice]
            chosen.setdefault(vote.question, []).append(method)
    results = []
    for question in sorted(chosen, key=list(QUESTIONS).index):
        wins, losses, ties = (chosen[question].count(method) for method in (first, second, None))
        wilson = wilson_interval(wins, wins + losses)
        results.append(Preference(question, first, second, wilson.mean, wilson.low, wilson.high, wilson.n, ties))
    return results


def read_votes(path: str | Path) -> list[Vote]:
    """Read the votes in a file that `write_votes` wrote; an empty list if there is no file yet.

    Raises:
        ValueError: the file is not such a file, or damaged; the message names it.
    """
    path = Path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != Vote._fields:
            raise ValueError(f"{path}: not a file of votes: its columns are not {','.join(Vote._fields)}.")
        rows = list(table)
    try:
        votes = [Vote(**{**row, "index": int(row["index"])}) for row in rows]
    except (TypeError, ValueError):
        raise ValueError(f"{path}: a line of it is damaged. Correct or remove it.") from None
    for known, given in ((CHOICES, "choice"), (QUESTIONS, "question")):
        if wrong := [vote for vote in votes if getattr(vote, given) not in known]:
            found = getattr(wrong[0], given)
            raise ValueError(f"{path}: the {given} {found!r} is not one of {list(known)}. Correct or remove its line.")
    return votes


def write_votes(votes: Iterable[Vote], path: str | Path) -> None:
    """Write one line per vote; the file appears whole or not at all."""
    with replace_whole(path) as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Vote._fields)
        table.writerows(votes)


def trials_left(trials: Iterable[Trial], votes: Iterable[Vote], rater: str) -> list[Trial]:
    """Return the trials that the rater has not voted on yet, in their order; the sides of earlier votes are ignored."""
    done = {(vote.question, vote.index, frozenset((vote.left, vote.right))) for vote in votes if vote.rater == rater}
    return [trial for trial in trials if (trial.question, trial.index, frozenset(trial[2:])) not in done]
