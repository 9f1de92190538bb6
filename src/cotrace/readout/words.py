"""Words made from the numbers: one line for each member, never more than the numbers say."""

from __future__ import annotations

from collections.abc import Iterator

from cotrace.readout.card import Card, looks_of
from cotrace.readout.records import LAST, NO_INTERVAL, Arrow, Look, Paths
from cotrace.statistics import covers, interval_text

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
    """By which input of the head, where one alone does nearly all of it."""
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
