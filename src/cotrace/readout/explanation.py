"""Explanation: what a set does, as one record. Prints as words, shows as tables, exports as JSON, GraphML and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotrace import markup
from cotrace.arguments import check_kind
from cotrace.errors import InputError
from cotrace.readout.records import (
    LAST,
    NO_INTERVAL,
    Acting,
    Alone,
    Arrow,
    Example,
    Look,
    Moved,
    Ov,
    Paths,
    Read,
    Written,
    is_single,
)
from cotrace.results import Table
from cotrace.statistics import Interval, covers, interval_text

if TYPE_CHECKING:
    import pandas as pd

SELF = 0.999
"""Attention of a position to itself that says nothing: it may be all that it sees."""
SMALL = 5e-4
"""Shown as 0."""
SHOWN = 4
"""Tokens, looks and parts that a cell of a table holds."""
FORMATS = ("json", "graphml", "csv")


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
            "swapped alone": f"{_number(self.alone.effect)} ({interval_text(self.alone.interval) or NO_INTERVAL})",
            "of it directly": _number(self.direct),
            "behaves as": _behaviour(self),
            "reads (base, donor)": _looks(self, SHOWN),
            "most attended" if self.read.attends else "most active at": _names([t for t, _ in self.read.tokens]),
            "writes (base, donor)": f"{_number(written.base)}, {_number(written.donor)}" if written.promoted else "",
            "raises": _tokens(written.promoted),
            "lowers": _tokens(written.suppressed),
            "acts at": ", ".join(f"{one.where} {_number(one.effect)}" for one in self.roles[:SHOWN]),
        }
        return markup.facts(self.component, {n: v for n, v in facts.items() if v}) + markup.paragraph(self.words)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the members of a set read and write, where they act, and who feeds whom. ``print`` it for the words."""

    model: str
    task: str
    metric: str
    donors: str
    pairs: str
    """The pairs that all figures are of, such as ``24 held-out pairs``."""
    cards: tuple[Card, ...]
    """One for each member, in the order of layers."""
    paths: Paths
    logit_difference: float | None = None
    """Mean over pairs, of the right answer against the others; None where contributions are not known."""
    parts: tuple[tuple[str, float], ...] = ()
    """Everything that is added to the stream and its mean part in the logit difference, of which they are the sum."""
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    """What is left out, and why."""
    forward_equivalents: float = 0.0
    contributions: Any = field(default=None, compare=False, repr=False)
    """``Contributions``: the parts for each pair. None where they are not known, or it was read from a file."""

    @property
    def components(self) -> list[str]:
        """Names of the members."""
        return [card.component for card in self.cards]

    @property
    def k(self) -> int:
        """How many members there are."""
        return len(self.cards)

    @cached_property
    def _cards(self) -> dict[str, Card]:
        return {card.component: card for card in self.cards}

    def card(self, component: str) -> Card:
        """What is known of one member, by its name. Raises InputError."""
        check_kind("Explanation.card", "component", component, str)
        if component not in self._cards:
            raise InputError(f"{component} is not explained here: it is one of {', '.join(self.components)}")
        return self._cards[component]

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """Those that are more than next to nothing, the strongest first."""
        listed = [arrow for arrow in self.paths.arrows if arrow.evidence]
        return tuple(sorted(listed, key=lambda arrow: -abs(arrow.effect)))

    @property
    def summary(self) -> str:
        """What the whole set does, in one line."""
        interval = f" ({interval_text(self.paths.together_interval)})" if self.paths.together_interval else ""
        moves = f"move the {self.metric.replace('_', ' ')} by {self.paths.together:+.3g}{interval}"
        return f"Swapped together the {self.k} {moves} on {self.pairs}, donors {self.donors}."

    @property
    def words(self) -> tuple[str, ...]:
        """One line for each member, made from the numbers."""
        return tuple(card.words for card in self.cards)

    def table(self) -> Table:
        """Every member in one row: what it does, reads and writes."""
        rows = [
            (
                card.component,
                _number(card.alone.effect),
                interval_text(card.alone.interval, "+.2g"),
                _number(card.direct),
                _behaviour(card),
                _looks(card, 1),
                _number(card.written.base),
                _number(card.written.difference),
            )
            for card in self.cards
        ]
        columns = ("component", "effect", "interval", "direct", "behaves as", "reads", "writes", "swapped")
        title = f"{self.k} members of {self.model} on {self.task}: {self.metric}, {self.pairs}"
        return Table(title, columns, rows, frozenset({4, 5})).without_empty()

    def reads(self) -> Table:
        """What each member reads: looks, tokens and behaviours."""
        rows = [
            (
                card.component,
                _looks(card, SHOWN),
                ", ".join(f"{_names([token])} {weight:.2g}" for token, weight in card.read.tokens[:SHOWN]),
                _behaviours(card),
            )
            for card in self.cards
        ]
        columns = ("component", "looks (base, donor)", "most attended", "behaves as (random, base, donor)")
        return Table("What they read", columns, rows, frozenset({1, 2, 3})).without_empty()

    def writes(self) -> Table:
        """What each member writes: its part in the logit difference, and the tokens that it raises and lowers."""
        rows = [
            (
                card.component,
                *(_number(x) for x in (card.written.base, card.written.donor, card.written.difference)),
                _number(card.direct),
                "" if card.direct_share is None else f"{card.direct_share:.0%}",
                _tokens(card.written.promoted),
                _tokens(card.written.suppressed),
            )
            for card in self.cards
        ]
        columns = ("component", "base", "donor", "difference", "direct", "of its effect", "raises", "lowers")
        whole = "" if self.logit_difference is None else f" (the logit difference is {self.logit_difference:+.3g})"
        return Table(f"What they write{whole}", columns, rows, frozenset({6, 7})).without_empty()

    def maps(self) -> Table:
        """What each member's weights make of what they are given: a head's OV map, or an output row."""
        rows = [
            (
                card.component if i == 0 else "",
                _names([one.token]) if one.token else "" if card.read.attends else "its output row",
                _names(one.raises),
                _names(one.lowers),
                "" if i or card.ov.copies is None else f"{card.ov.copies:.0%}",
            )
            for card in self.cards
            if card.ov is not None
            for i, one in enumerate(card.ov.moved or (Moved(token="", raises=()),))
        ]
        title = "What their weights alone write (OV maps of heads, output rows of neurons)"
        return Table(title, ("component", "given", "raises", "lowers", "copies"), rows, frozenset({1, 2, 3}))

    def positions(self, *, single: bool = False) -> Table:
        """Where each member acts, by role or (``single``) by position from the end."""
        per = [card.single if single else card.roles for card in self.cards]
        where = list(dict.fromkeys(one.where for acting in per for one in acting))
        rows = []
        for card, acting in zip(self.cards, per, strict=True):
            by_name = {one.where: one.effect for one in acting}
            rows.append((card.component, *(_number(by_name.get(name)) for name in where)))
        title = "Where they act, by position from the end" if single else "Where they act, by role"
        return Table(title, ("component", *where), rows)

    def feeds(self, *, every: bool = False) -> Table:
        """Who feeds whom: the arrows that are more than next to nothing, or ``every`` one."""
        arrows = self.paths.arrows if every else self.arrows
        rows = [
            (
                arrow.source,
                arrow.target,
                _number(arrow.effect),
                interval_text(arrow.interval, "+.2g"),
                "" if arrow.share is None else f"{arrow.share:.0%}",
                " / ".join(_number(arrow.parts[part]) for part in arrow.parts),
                arrow.mark,
            )
            for arrow in arrows
        ]
        columns = ("from", "to", "effect", "interval", "share", "query / key / value", "mark")
        title = "Who feeds whom (share: of what the first does)"
        return Table(title, columns, rows, frozenset({5, 6})).without_empty()

    def added(self, most: int = 12) -> Table:
        """The largest parts of the logit difference, members or not, and the sum of all."""
        check_kind("Explanation.added", "most", most, int)
        largest = sorted(self.parts, key=lambda part: -abs(part[1]))[:most]
        rows = [(name, _number(value)) for name, value in largest]
        rest = len(self.parts) - len(rows)
        rows += [(f"{rest} others", _number(sum(v for _, v in self.parts) - sum(v for _, v in largest)))] * (rest > 0)
        rows += [("sum", _number(self.logit_difference))]
        return Table("What the logit difference is the sum of", ("part", "logits"), rows, frozenset({0}))

    def redacted(self) -> Explanation:
        """The same without anything of the prompts' texts."""
        cards = tuple(
            replace(
                card,
                read=replace(card.read, tokens=()),
                ov=None if card.ov is None else replace(card.ov, moved=()),
            )
            for card in self.cards
        )
        return replace(self, cards=cards, examples=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the contributions of single pairs left out."""
        data = asdict(self)
        del data["contributions"]
        for row, arrow in zip(data["paths"]["arrows"], self.paths.arrows, strict=True):
            row["evidence"] = arrow.evidence
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Explanation:
        """Inverse of ``to_dict``. Raises pydantic's ValidationError."""
        from cotrace.readout.files import explanation_from

        return explanation_from(data)

    def members_frame(self) -> pd.DataFrame:
        """One row for each member, with all its numbers."""
        from cotrace.readout.files import members_frame

        return members_frame(self)

    def arrows_frame(self) -> pd.DataFrame:
        """One row for each arrow, whether or not it is more than next to nothing."""
        from cotrace.readout.files import arrows_frame

        return arrows_frame(self)

    def export(self, folder: str | Path) -> tuple[Path, ...]:
        """Write ``explanation.json``, ``explanation.graphml`` and two CSV files into a folder; gives their paths.

        Raises InputError where a file is there already, or none can be written.
        """
        from cotrace.readout.files import export

        return export(self, folder)

    def tables(self) -> Iterator[Table]:
        """All that have something in them."""
        yield self.table()
        yield self.reads()
        yield self.writes()
        if any(card.ov is not None for card in self.cards):
            yield self.maps()
        if any(card.roles for card in self.cards):
            yield self.positions()
        if self.arrows:
            yield self.feeds()

    def _repr_html_(self) -> str:
        from cotrace.readout.diagram import diagram_svg

        lines = "".join(markup.paragraph(line) for line in (self.summary, *self.words, *self.notes))
        return lines + diagram_svg(self) + "".join(table._repr_html_() for table in self.tables())

    def __str__(self) -> str:
        return "\n".join(
            [self.summary, *self.words, *self.notes, "", *(f"{table}\n" for table in self.tables())]
        ).rstrip()

    def __repr__(self) -> str:
        return f"Explanation({', '.join(self.components)}; {self.metric}, {self.pairs})"


def _number(value: float | None) -> str:
    """Three digits, which intervals seldom allow more of."""
    return "" if value is None else "0" if abs(value) < SMALL else f"{value:+.3g}"


def _tokens(tokens: Sequence[tuple[str, float]]) -> str:
    return _names([token for token, _ in tokens])


def _names(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:SHOWN]))


def _behaviour(card: Card) -> str:
    named = card.read.behaviour
    return "" if named is None else f"{named.name} {named.random:.2f}"


def _behaviours(card: Card) -> str:
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


def _looks(card: Card, most: int) -> str:
    return "; ".join(map(look_words, looks_of(card)[:most]))
