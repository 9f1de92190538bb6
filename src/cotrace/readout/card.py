"""Card: all that is known of one member of a set, and how its numbers are put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cotrace import markup
from cotrace.readout.records import (
    LAST,
    NO_INTERVAL,
    Acting,
    Active,
    Alone,
    Arrow,
    Feature,
    Look,
    Ov,
    Paths,
    Read,
    Written,
    is_single,
)
from cotrace.statistics import Interval, covers, interval_text

SELF = 0.999
"""Attention of a position to itself that says nothing: it may be all that it sees."""
SMALL = 5e-4
"""Shown as 0."""
SHOWN = 4
"""Tokens, looks and parts that a cell of a table holds."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that is known of one member."""

    component: str
    alone: Alone
    read: Read
    written: Written
    direct: float | None
    """What its swap does to the metric with every later layer as in the base run; None where that is not known."""
    direct_interval: Interval | None
    acting: tuple[Acting, ...] = ()
    ov: Ov | None = None
    feature: Feature | None = None
    """What the feature is; None for another member, or where it is not known."""
    known: tuple[str, ...] = ()
    """Roles that others have given it."""
    words: str = ""

    @property
    def direct_share(self) -> float | None:
        """The share of its effect that is direct; None where its effect is next to nothing, or not known."""
        if self.direct is None or self.alone.effect == 0 or covers(self.alone.interval):
            return None
        return self.direct / self.alone.effect

    @property
    def roles(self) -> tuple[Acting, ...]:
        """Where it acts, by role: the strongest first."""
        return tuple(sorted((a for a in self.acting if not is_single(a.where)), key=lambda a: -abs(a.effect)))

    @property
    def single(self) -> tuple[Acting, ...]:
        """The same by position from the end, the last first."""
        return tuple(a for a in self.acting if is_single(a.where))

    def __str__(self) -> str:
        return self.words

    def __repr__(self) -> str:
        return f"Card({self.component}, effect {self.alone.effect:+.4g})"

    def _repr_html_(self) -> str:
        written = self.written
        facts = {
            "swapped alone": f"{figure(self.alone.effect)} ({interval_text(self.alone.interval) or NO_INTERVAL})",
            "of it directly": figure(self.direct),
            "behaves as": behaviour_words(self),
            "reads (base, donor)": looks_words(self, SHOWN),
            "most attended" if self.read.attends else "most active at": quoted([t for t, _ in self.read.tokens]),
            "writes (base, donor)": f"{figure(written.base)}, {figure(written.donor)}" if written.promoted else "",
            "raises": token_words(written.promoted),
            "lowers": token_words(written.suppressed),
            "acts at": ", ".join(f"{one.where} {figure(one.effect)}" for one in self.roles[:SHOWN]),
        }
        return markup.facts(self.component, {n: v for n, v in facts.items() if v}) + markup.paragraph(self.words)


@runtime_checkable
class Explained(Protocol):
    """What words, diagrams and files take from an explanation."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def task(self) -> str:
        """Name of the data."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def pairs(self) -> str:
        """The pairs that all figures are of."""

    @property
    def k(self) -> int:
        """Number of members."""

    @property
    def components(self) -> list[str]:
        """Names of the members."""

    @property
    def cards(self) -> tuple[Card, ...]:
        """One for each member."""

    @property
    def paths(self) -> Paths:
        """Who feeds whom."""

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """Those that are more than next to nothing."""

    @property
    def logit_difference(self) -> float | None:
        """Mean over pairs, of the right answer against the others."""

    @property
    def words(self) -> tuple[str, ...]:
        """One line for each member."""

    def card(self, component: str) -> Card:
        """The card of one member."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""


def figure(value: float | None) -> str:
    """Three digits, which intervals seldom allow more of."""
    return "" if value is None else "0" if abs(value) < SMALL else f"{value:+.3g}"


def token_words(tokens: Sequence[tuple[str, float]]) -> str:
    """The first few tokens, quoted."""
    return quoted([token for token, _ in tokens])


def quoted(tokens: Sequence[str]) -> str:
    """The first few texts, quoted."""
    return ", ".join(map(repr, tokens[:SHOWN]))


def active_words(one: Active) -> str:
    """A text with the active token in brackets, and its activation."""
    return f"{one.before}[{one.token}]{one.after} ({one.activation:.3g})"


def behaviour_words(card: Card) -> str:
    """The behaviour that it is named for, with its score on random tokens."""
    named = card.read.behaviour
    return "" if named is None else f"{named.name} {named.random:.2f}"


def behaviours_words(card: Card) -> str:
    """All behaviours with a score: on random tokens, in the base run and in the donor run."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    scored = [b for b in card.read.behaviours if max(b.random or 0, b.base or 0, b.donor or 0) >= 0.1]
    return "; ".join(f"{b.name} {shown(b.random)}, {shown(b.base)}, {shown(b.donor)}" for b in scored)


def looks_of(card: Card) -> list[Look]:
    """The looks from the last position first; without those of positions that see nothing but themselves."""
    if not card.read.attends:
        return list(card.read.looks)
    told = [one for one in card.read.looks if not (one.query == one.key and one.base > SELF)]
    return sorted(told, key=lambda one: one.query != LAST)


def look_words(one: Look) -> str:
    """Such as ``last to subject 0.82, 0.79``: of the base run and of the donor run."""
    if not one.key:
        return f"{one.query} {one.base:.3g}"
    return f"{one.query} to {one.key} {one.base:.2f}" + ("" if one.donor is None else f", {one.donor:.2f}")


def looks_words(card: Card, most: int) -> str:
    """Its looks, so many at most."""
    return "; ".join(map(look_words, looks_of(card)[:most]))
