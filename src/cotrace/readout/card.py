"""Card: all that is known of one member of a set, and how its numbers are put."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
from cotrace.results.table import number
from cotrace.statistics import Interval, covers, interval_text
from cotrace.text import escape

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
    """Name of the member."""
    alone: Alone
    """Effect of swapping it."""
    read: Read
    """Its reads."""
    written: Written
    """Its writes."""
    direct: float | None
    """Effect of its swap with every later layer as in the base run; None where that is not known."""
    direct_interval: Interval | None
    """Interval of ``direct``."""
    acting: tuple[Acting, ...] = ()
    """Effects of its swap at some positions alone."""
    ov: Ov | None = None
    """Its weights by themselves; None where they do not say it."""
    feature: Feature | None = None
    """The feature's description; None for another member, or where it is not known."""
    known: tuple[str, ...] = ()
    """Roles that others have given it."""
    words: str = ""
    """The card in sentences."""

    @property
    def direct_share(self) -> float | None:
        """The share of its effect that is direct; None where its effect is next to nothing, or not known."""
        if self.direct is None or self.alone.effect == 0 or covers(self.alone.interval):
            return None
        return self.direct / self.alone.effect

    @property
    def roles(self) -> tuple[Acting, ...]:
        """Effects of its swap by role, the strongest first."""
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
        return escape.facts(self.component, {n: v for n, v in facts.items() if v}) + escape.paragraph(self.words)


@runtime_checkable
class Explained(Protocol):
    """The part of an explanation that words, diagrams and files use."""

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
        """The arrows between members."""

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """Return the arrows that are more than next to nothing."""

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
    return "0" if value is not None and abs(value) < SMALL else number(value, digits=3)


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
    """Return words such as ``last to subject 0.82, 0.79``: of the base run and of the donor run."""
    if not one.key:
        return f"{one.query} {one.base:.3g}"
    return f"{one.query} to {one.key} {one.base:.2f}" + ("" if one.donor is None else f", {one.donor:.2f}")


def looks_words(card: Card, most: int) -> str:
    """Its looks, so many at most."""
    return "; ".join(map(look_words, looks_of(card)[:most]))


PLACES = {
    "last": "the last position",
    "first": "the first token",
    "changed": "the words that differ",
    "other": "the other tokens",
    "all": "all positions",
}
MOSTLY, NONE = 0.95, 0.05
"""Shares from which one says all, and below which one says none."""


def words_of(card: Card, paths: Paths, metric: str, whole: float | None, others: bool) -> str:
    """The line of one member; ``whole`` is the logit difference, ``others`` whether there are several answers."""
    sentences = [
        f"{_name(card)} {' and '.join(_does(card, whole, others))}",
        _moves(card, metric.replace("_", " ")),
        *_feeds(card, paths),
        *_roles(card, metric.replace("_", " ")),
    ]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def place(name: str) -> str:
    """A group of positions in words."""
    return PLACES.get(name, f"the {name}")


def _name(card: Card) -> str:
    named = card.read.behaviour
    kinds = [] if named is None else [f"{named.name} {named.random:.2f}"]
    kinds += [f"known as {name}" for name in card.known]
    return f"{card.component} ({'; '.join(kinds)})" if kinds else card.component


def _does(card: Card, whole: float | None, others: bool) -> Iterator[str]:
    look = main_look(card)
    if look is not None and card.read.attends:
        yield f"reads {place(look.key)} from {place(look.query)} ({look.base:.2f})"
    elif look is not None:
        yield f"is most active at {place(look.query)}"
    if card.written.base is not None and whole is not None:
        answer = "the right answer" if others else "the answer"
        if abs(card.written.base) < NONE * abs(whole) / 2:
            yield f"writes next to nothing of the {whole:+.2g} for {answer}"
        else:
            towards = "for" if card.written.base >= 0 else "against"
            yield f"writes {card.written.base:+.2g} of {whole:+.2g} {towards} {answer}"
    if look is None and card.written.base is None:
        yield "is a member of the set"


def main_look(card: Card) -> Look | None:
    """The strongest look from where the member acts most and sees more than itself, or from the last position.

    One at words that have a name is taken before a stronger one at the rest, where it is at least half of it.
    """
    if not card.read.attends:
        return next(iter(card.read.looks), None)
    for name in (*(one.where for one in card.roles[:1]), LAST):
        looks = [one for one in looks_of(card) if one.query == name and one.base >= NONE]
        if not looks:
            continue
        named = [one for one in looks if one.key not in (*PLACES, name) or one.key == "changed"]
        return named[0] if named and named[0].base >= looks[0].base / 2 else looks[0]
    return card.read.look()


def _moves(card: Card, metric: str) -> str:
    alone = card.alone
    interval = f" ({interval_text(alone.interval, '+.2g')})" if alone.interval else ""
    if covers(alone.interval):
        return f"Swapped alone it is not shown to move the {metric}: {alone.effect:+.2g}{interval}"
    interval = interval or f" ({NO_INTERVAL})"
    text = f"Swapped alone it moves the {metric} by {alone.effect:+.2g}{interval}"
    if (share := card.direct_share) is not None and card.direct is not None:
        if abs(share) <= NONE:
            text += ", none of it directly"
        elif covers(card.direct_interval):
            text += ", not shown to do so directly"
        elif MOSTLY <= share <= 2 - MOSTLY:
            text += ", all of it directly"
        else:
            text += f", {share:.0%} of it directly" if 0 < share < 1 else f", directly by {card.direct:+.2g}"
    first = next(iter(card.roles), None)
    if first is not None and alone.effect and first.effect / alone.effect >= 1 / 2 and not covers(first.interval):
        share = first.effect / alone.effect
        there = f"{share:.0%}" if share <= 2 - MOSTLY else f"{first.effect:+.2g} there alone"
        text += f", at {place(first.where)} ({there})"
    return text


def _feeds(card: Card, paths: Paths) -> Iterator[str]:
    """The strongest arrows that leave it and reach it, in the base run."""
    clear = [arrow for arrow in paths.arrows if arrow.evidence and arrow.given is None]
    out = sorted((a for a in clear if a.source == card.component), key=lambda a: -abs(a.effect))
    into = sorted((a for a in clear if a.target == card.component), key=lambda a: -abs(a.effect))
    if out:
        yield "; ".join(map(_out, out[:2]))
    if into:
        yield "; ".join(map(_into, into[:2]))


def _share(arrow: Arrow) -> str:
    assert arrow.share is not None
    return "all" if MOSTLY <= arrow.share <= 2 - MOSTLY else f"{arrow.share:.0%}"


def _out(arrow: Arrow) -> str:
    known = "" if arrow.interval else f" ({NO_INTERVAL})"
    if arrow.kind == "inhibiting":
        return f"{arrow.target} takes {arrow.effect:+.2g} of it back{known}"
    return f"{_share(arrow)} of its effect goes through {arrow.target}{_part(arrow)}{known}"


def _into(arrow: Arrow) -> str:
    known = "" if arrow.interval else f" ({NO_INTERVAL})"
    if arrow.kind == "inhibiting":
        return f"it takes back {arrow.effect:+.2g} of what {arrow.source} does{known}"
    return f"it carries {_share(arrow)} of what {arrow.source} does{known}"


def _part(arrow: Arrow) -> str:
    """Return the input of the head that does nearly all of it alone, if one does."""
    named = [
        part
        for part, effect in arrow.parts.items()
        if arrow.effect and effect / arrow.effect >= MOSTLY and not covers(arrow.part_intervals.get(part))
    ]
    return f" by its {named[0]}" if len(named) == 1 else ""


def _roles(card: Card, metric: str) -> Iterator[str]:
    alone = card.alone
    if alone.inhibits:
        known = "" if alone.interval else f" ({NO_INTERVAL})"
        yield f"It works against the set, which moves the {metric} the other way{known}"
    if alone.partner is not None and alone.with_partner is not None:
        why = f"{alone.partner} takes back what it does" if alone.taken_back else "they stand in for each other"
        known = "" if alone.partner_interval else f" ({NO_INTERVAL})"
        yield f"With {alone.partner} swapped too it moves the {metric} by {alone.with_partner:+.2g}{known}: {why}"
