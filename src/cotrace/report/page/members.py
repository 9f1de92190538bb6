"""The explanation of a set on the page: a card for each member, with the patterns that its reader may look through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cotrace.readout.card import Card, active_words, look_words, looks_of
from cotrace.readout.explanation import Explanation
from cotrace.readout.explanation_files import anchor
from cotrace.readout.records import NO_INTERVAL, Arrow, Feature, Moved
from cotrace.statistics import interval_text

NEURONPEDIA = "https://www.neuronpedia.org/"
SHOWN = 4
LEAST = 0.2
"""Score from which a behaviour is mentioned."""
DIGITS = 2
"""Decimals of attention weights in the page."""


@dataclass(frozen=True)
class MemberCard:
    """One member's card: where it stands, what is said of it, and its facts by name."""

    id: str
    name: str
    effect: float
    tags: tuple[str, ...]
    words: str
    facts: tuple[tuple[str, str], ...]
    attends: bool
    """Whether its attention can be looked at."""
    page: str | None = None
    """Address of a feature's page at Neuronpedia."""


def member_cards(found: Explanation) -> list[MemberCard]:
    """One for each member, in the order of layers."""
    seen = {head for example in found.examples for head in example.patterns}
    return [
        MemberCard(
            anchor(card.component),
            card.component,
            card.alone.effect,
            tuple(_tags(card)),
            card.words,
            tuple((name, text) for name, text in _facts(card, found) if text),
            card.component in seen,
            _page(card),
        )
        for card in found.cards
    ]


def pattern_data(found: Explanation) -> list[dict[str, Any]]:
    """The examples' patterns for the page's script: of each query the weights of the keys up to it."""
    return [
        {
            "pair": example.pair,
            "run": example.run,
            "tokens": list(example.tokens),
            "heads": {
                head: [[round(weight, DIGITS) for weight in row[: i + 1]] for i, row in enumerate(rows)]
                for head, rows in example.patterns.items()
            },
        }
        for example in found.examples
    ]


def _page(card: Card) -> str | None:
    """The link of a feature, which a file may hold: to nowhere else than Neuronpedia."""
    link = None if card.feature is None else card.feature.link
    return link if link is not None and link.startswith(NEURONPEDIA) else None


def _tags(card: Card) -> Iterator[str]:
    named = card.read.behaviour
    if named is not None:
        yield named.name
    yield from (f"known as {role}" for role in card.known)
    if card.alone.inhibits:
        yield "works against the set"
    if card.alone.partner and not card.alone.taken_back:
        yield f"redundant with {card.alone.partner}"


def _facts(card: Card, found: Explanation) -> Iterator[tuple[str, str]]:
    attends = card.read.attends
    looks = map(look_words, looks_of(card)[:SHOWN])
    yield ("reads (base, donor)" if attends else "active at"), "; ".join(looks)
    yield (
        ("most attended" if attends else "most active at"),
        ", ".join(f"{_quoted(token)} {weight:.2g}" for token, weight in card.read.tokens[:SHOWN]),
    )
    yield (
        "behaves as (random tokens)",
        ", ".join(
            f"{one.name} {one.random:.2f}"
            for one in card.read.behaviours
            if one.random is not None and one.random >= LEAST
        ),
    )
    written = card.written
    if written.base is not None and written.donor is not None:
        yield "writes to the answer", f"{written.base:+.3g} logits; {written.donor:+.3g} when swapped"
    yield "raises", ", ".join(_quoted(token) for token, _ in written.promoted[:SHOWN])
    yield "lowers", ", ".join(_quoted(token) for token, _ in written.suppressed[:SHOWN])
    if card.feature is not None:
        yield from _feature_facts(card.feature)
    if card.ov is not None:
        if card.ov.copies is not None:
            yield "copies", f"{card.ov.copies:.0%} of the tokens it may look at"
        yield f"by {'its OV map' if attends else card.ov.row}", "; ".join(map(_moved, card.ov.moved))
    yield "swapped alone", f"{card.alone.effect:+.3g} ({interval_text(card.alone.interval) or NO_INTERVAL})"
    if card.direct is not None:
        yield "of it directly", f"{card.direct:+.3g} ({interval_text(card.direct_interval) or NO_INTERVAL})"
    yield "acts at", "; ".join(f"{one.where} {one.effect:+.2g}" for one in card.roles[:SHOWN])
    yield (
        "by position from the end",
        "; ".join(
            f"{one.where} {one.effect:+.2g}" for one in sorted(card.single, key=lambda a: -abs(a.effect))[:SHOWN]
        ),
    )
    yield "feeds", "; ".join(_arrow(a, a.target) for a in found.arrows if a.source == card.component)
    yield "is fed by", "; ".join(_arrow(a, a.source) for a in found.arrows if a.target == card.component)


def _moved(one: Moved) -> str:
    raises, lowers = (", ".join(map(_quoted, tokens)) for tokens in (one.raises, one.lowers))
    return f"{_quoted(one.token) + ' ' if one.token else ''}raises {raises}, lowers {lowers}"


def _feature_facts(one: Feature) -> Iterator[tuple[str, str]]:
    yield "feature of", f"{one.dictionary} at {one.hook}, active on {one.active_share:.1%} of the tokens"
    yield "most active in", "; ".join(map(active_words, one.active[:SHOWN]))
    yield "its direction promotes", ", ".join(_quoted(token) for token, _ in one.promoted[:SHOWN])
    yield "its direction suppresses", ", ".join(_quoted(token) for token, _ in one.suppressed[:SHOWN])


def _quoted(token: str) -> str:
    """A token with its spaces seen, and never broken between lines."""
    return f"\u201c{token}\u201d".replace(" ", "\N{NO-BREAK SPACE}")


def _arrow(arrow: Arrow, other: str) -> str:
    return f"{other} {arrow.effect:+.2g}" + (f" ({arrow.mark})" if arrow.mark else "")
