"""A blind side-by-side vote: what is shown where, the votes in a CSV file, and what they say.

The paper's user study (Table 2) asks for marks from 1 to 5 for identity, style and fidelity. Here raters choose between
two pictures, which needs fewer raters and no agreement on what a 3 is.
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
    """Of the picture, among those of each method."""
    left: str
    """Method of the picture on the left."""
    right: str


class Vote(NamedTuple):
    """What a rater chose in a trial."""

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
    share: float
    low: float
    high: float
    n: int
    """Votes that preferred one."""
    ties: int


def plan_trials(methods: Sequence[str], n: int, seed: int, questions: Sequence[str] = tuple(QUESTIONS)) -> list[Trial]:
    """Every question about every pair once, in an order and with sides that depend on the seed only.

    Each method is on the left in half of a question's trials, or in one more or fewer if their number is odd.
    """
    first, second = methods
    rng = torch.Generator().manual_seed(seed)
    trials = []
    for question in questions:
        on_left = torch.randperm(n, generator=rng) % 2 == torch.randint(2, (1,), generator=rng)
        trials += [Trial(question, i, *((first, second) if on_left[i] else (second, first))) for i in range(n)]
    return [trials[i] for i in torch.randperm(len(trials), generator=rng).tolist()]


def summarise_votes(votes: Iterable[Vote], methods: Sequence[str]) -> list[Preference]:
    """One preference per question that has votes on these two methods, over all raters.

    Note:
        The interval takes votes as independent. Several by one rater are not quite: with few raters it is too narrow.
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
        share = wilson_interval(wins, wins + losses)
        results.append(Preference(question, first, second, share.mean, share.low, share.high, share.n, ties))
    return results


def read_votes(path: str | Path) -> list[Vote]:
    """The votes in a file that `write_votes` wrote; none if there is no file yet.

    Raises:
        ValueError: the file holds something else; the message names it.
    """
    path = Path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != Vote._fields:
            raise ValueError(f"{path}: no votes, its columns are not {','.join(Vote._fields)}. Give another file.")
        rows = list(table)
    try:
        votes = [Vote(**{**row, "index": int(row["index"])}) for row in rows]
    except (TypeError, ValueError):
        raise ValueError(f"{path}: a line of it is damaged. Mend or remove it.") from None
    for known, given in ((CHOICES, "choice"), (QUESTIONS, "question")):
        if wrong := [vote for vote in votes if getattr(vote, given) not in known]:
            found = getattr(wrong[0], given)
            raise ValueError(f"{path}: the {given} {found!r} is none of {list(known)}. Mend or remove its line.")
    return votes


def write_votes(votes: Iterable[Vote], path: str | Path) -> None:
    """One line a vote; the file appears whole or not at all."""
    with replace_whole(path) as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Vote._fields)
        table.writerows(votes)


def trials_left(trials: Iterable[Trial], votes: Iterable[Vote], rater: str) -> list[Trial]:
    """Those that the rater has not voted on yet, in their order; which side was which does not matter."""
    done = {(vote.question, vote.index, frozenset((vote.left, vote.right))) for vote in votes if vote.rater == rater}
    return [trial for trial in trials if (trial.question, trial.index, frozenset(trial[2:])) not in done]
