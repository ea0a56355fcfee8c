"""The results of a knock-out: what each intervention on a placeholder changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from jaxtyping import Float
from torch import Tensor

from mcpkg.inference.generate import Generated
from mcpkg.metrics.scores import Scores
from mcpkg.util.files import finite
from mcpkg.util.statistics import Interval

PLAIN_CHANGE = 0.1
"""Difference of one colour channel, of 1, from which a pixel counts as changed."""
SMALL_SCORE = 0.1
"""Untouched scores below this have little to lose: shares of them are None."""


@dataclass(frozen=True)
class Effect:
    """What one intervention on one placeholder changes: means over the portraits that showed exactly one face."""

    role: str
    intervention: str
    """Key of `mcpkg.metrics.knockout.INTERVENTIONS`."""
    identity: Interval
    """0 for a stranger, 1 for the source's own photos; a portrait that no longer shows exactly one face counts 0."""
    style: Interval
    """0 for the source's own photos, 1 for the reference portraits among themselves."""
    identity_share: Interval | None
    """(untouched - intervened) / untouched; below 0 where the intervention helps. None if untouched is near 0. The
    interval takes the untouched mean as given."""
    style_share: Interval | None
    """The same of style."""
    changed_face: float
    """Fraction of the pixels in the untouched portrait's face that change by PLAIN_CHANGE or more."""
    changed_rest: float
    """The same of the other pixels."""
    one_face: float
    """Fraction that still show exactly one face."""

    @property
    def stands_for(self) -> str:
        """What the placeholder should be the cause of: "identity" of the source, or "style" of the reference."""
        return "identity" if self.role == "source" else "style"

    @property
    def causal_share(self) -> Interval | None:
        """The share of what the placeholder stands for."""
        return self.identity_share if self.role == "source" else self.style_share


@dataclass(frozen=True)
class Knockout:
    """Portraits with and without each intervention, and the effects."""

    untouched: Generated
    scores: Scores
    """Of all untouched portraits."""
    identity: Interval
    """Scaled, of the untouched portraits that show exactly one face."""
    style: Interval
    """Scaled, of the same."""
    tokens: dict[str, str]
    """Role -> placeholder, such as "<v1>"."""
    effects: tuple[Effect, ...]
    images: dict[tuple[str, str], Float[Tensor, "n 3 h w"]]
    """(role, intervention) -> portraits."""

    def leakage(self, role: str) -> Interval:
        """Fraction of the placeholder's attention outside its region, in the untouched portraits."""
        return self.scores.leakage_source if role == "source" else self.scores.leakage_reference

    def area_outside(self, role: str) -> float:
        """The leakage of attention that is the same everywhere."""
        return self.scores.area_source if role == "source" else self.scores.area_reference

    def as_dict(self) -> dict:
        """Ready for JSON: what is not defined is None."""
        tokens = {
            token: {
                "role": role,
                "leakage": asdict(self.leakage(role)),
                "area_outside": self.area_outside(role),
                "interventions": {
                    effect.intervention: asdict(effect)
                    | {"causal_share": effect.causal_share and asdict(effect.causal_share)}
                    for effect in self.effects
                    if effect.role == role
                },
            }
            for role, token in self.tokens.items()
        }
        return finite(
            {
                "prompt": self.untouched.prompt,
                "seeds": list(self.untouched.seeds),
                "settings": self.untouched.settings,
                "untouched": {"identity": asdict(self.identity), "style": asdict(self.style)},
                "tokens": tokens,
            }
        )


def effect_table(knockout: Knockout) -> str:
    """A text table: a line for the untouched portraits, then one for each placeholder and intervention."""
    columns = ("word", "intervention", "identity", "style", "causal share", "face changed", "rest changed", "one face")
    rows = [("", "untouched", f"{knockout.identity.mean:.2f}", f"{knockout.style.mean:.2f}", "", "", "", "")]
    for effect in knockout.effects:
        share = effect.causal_share
        rows.append(
            (
                knockout.tokens[effect.role],
                effect.intervention,
                f"{effect.identity.mean:.2f}",
                f"{effect.style.mean:.2f}",
                (f"{share.mean:z.2f} [{share.low:z.2f}, {share.high:z.2f}]" if share else "undefined")
                + f" of {effect.stands_for}",
                f"{effect.changed_face:.3f}",
                f"{effect.changed_rest:.3f}",
                f"{effect.one_face:.2f}",
            )
        )
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (columns, *rows)]
    leaks = (
        f"leakage of {token}: {knockout.leakage(role).mean:.2f} (uniform attention {knockout.area_outside(role):.2f})"
        for role, token in knockout.tokens.items()
    )
    return "\n".join((*lines, "", *leaks))
