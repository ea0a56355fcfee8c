"""What of a run worked and what did not, in words, for the top of its report."""

import math

from mcpkg.metrics.compare import Outcome
from mcpkg.metrics.evaluate import HALF_WAY
from mcpkg.metrics.scores import Scores

LOW = 0.25
"""Likeness or style below this, on the scale from a stranger (0) to the person's own photos (1), failed."""
LOST = 0.25
"""Fraction of portraits without a usable face, or collapsed, above which that is the verdict."""


def verdict(result: Outcome) -> tuple[str, list[str]]:
    """One line, "It worked", "It worked in part" or "It did not work", and what that rests on.

    Returns:
        The line, and a sentence for each thing that was looked at, those that failed first.
    """
    findings = sorted(_findings(result.scores), key=lambda finding: finding[0])
    worst = min((grade for grade, _ in findings), default=0)
    line = ("It did not work.", "It worked in part.", "It worked.")[worst]
    return line, [sentence for _, sentence in findings]


def _findings(scores: Scores) -> list[tuple[int, str]]:
    """Grade (0 failed, 1 in part, 2 fine) and sentence of each thing that was looked at."""
    found = []
    no_face, n = scores.n_without_face, scores.n_images
    if no_face or scores.n_with_several_faces:
        several = f" and {scores.n_with_several_faces} several" if scores.n_with_several_faces else ""
        found.append((0 if scores.no_face_fraction > LOST else 1, f"{no_face} of {n} portraits show no face{several}."))
    else:
        found.append((2, f"All {n} portraits show one face."))
    own = "0 a stranger, 1 the person's own photos"
    if scores.scored_by_trainer:
        own += "; by the network of the identity loss, which flatters"
    found += _graded("Likeness to the person", scores.identity_scaled.mean, own)
    found += _graded("The style", scores.style_scaled.mean, "0 the person's own photos, 1 the style's portraits")
    if math.isfinite(scores.collapse.mean) and scores.collapse.mean > 0:
        share = f"{scores.collapse.mean:.0%} of the portraits copy a person of the style's portraits or drop the style."
        found.append((0 if scores.collapse.mean > LOST else 1, f"Collapse: {share}"))
    for leak, even, what in (
        (scores.leakage_source.mean, scores.area_source, "person, outside the face"),
        (scores.leakage_reference.mean, scores.area_reference, "style, on the face"),
    ):
        if math.isfinite(leak) and math.isfinite(even) and leak >= even:
            found.append((1, f"Attention collapsed: {leak:.0%} of that to the placeholder of the {what}; if it were "
                             f"spread evenly, {even:.0%} would be."))  # fmt: skip
    return found


def _graded(what: str, value: float, scale: str) -> list[tuple[int, str]]:
    if not math.isfinite(value):
        return [(1, f"{what} could not be measured.")]
    grade = 0 if value < LOW else 1 if value < HALF_WAY else 2
    return [(grade, f"{what} is {('low', 'middling', 'good')[grade]}: {value:.2f} ({scale}).")]
