"""Explanation: what a set does, as one record. Prints as words, shows as tables, exports as JSON, GraphML and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotrace.errors import InputError
from cotrace.readout.card import (
    SHOWN,
    Card,
    active_words,
    behaviour_words,
    behaviours_words,
    figure,
    looks_words,
    quoted,
    token_words,
)
from cotrace.readout.explanation_files import arrows_frame, diagram_svg, export, members_frame
from cotrace.readout.records import Arrow, Example, Moved, Paths
from cotrace.results import Table
from cotrace.statistics import interval_text
from cotrace.text import escape
from cotrace.text.files import made_of
from cotrace.validation import check_kind

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("json", "graphml", "csv")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Roles of a set's members: reads, writes, positions, and who feeds whom. ``print`` it for the words."""

    model: str
    """Name of the model."""
    task: str
    """Name of the task."""
    metric: str
    """Name of the metric."""
    donors: str
    """Donor source, as on the command line."""
    pairs: str
    """The pairs that all figures are of, such as ``24 held-out pairs``."""
    cards: tuple[Card, ...]
    """One for each member, in the order of layers."""
    paths: Paths
    """Effects of members and of one through another."""
    logit_difference: float | None = None
    """Mean over pairs, of the right answer against the others; None where contributions are not known."""
    parts: tuple[tuple[str, float], ...] = ()
    """Everything that is added to the stream and its mean part in the logit difference, of which they are the sum."""
    examples: tuple[Example, ...] = ()
    """Attention patterns of some pairs."""
    notes: tuple[str, ...] = ()
    """Figures that are left out, and why."""
    forward_equivalents: float = 0.0
    """Cost of the explanation."""
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
        """Return the card of one member, by its name. Raises InputError.

        Args:
            component: Name of a member.
        """
        check_kind("Explanation.card", "component", component, str)
        if component not in self._cards:
            raise InputError(f"{component} is not explained here: it is one of {', '.join(self.components)}")
        return self._cards[component]

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """Arrows that are more than next to nothing, the strongest first."""
        listed = [arrow for arrow in self.paths.arrows if arrow.evidence]
        return tuple(sorted(listed, key=lambda arrow: -abs(arrow.effect)))

    @property
    def summary(self) -> str:
        """Effect of the whole set, in one line."""
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
                figure(card.alone.effect),
                interval_text(card.alone.interval, "+.2g"),
                figure(card.direct),
                behaviour_words(card),
                looks_words(card, 1),
                figure(card.written.base),
                figure(card.written.difference),
            )
            for card in self.cards
        ]
        columns = ("component", "effect", "interval", "direct", "behaves as", "reads", "writes", "swapped")
        title = f"{self.k} members of {self.model} on {self.task}: {self.metric}, {self.pairs}"
        return Table(title, columns, rows, frozenset({4, 5})).without_empty()

    def reads(self) -> Table:
        """Table of what each member reads: looks, tokens and behaviours."""
        rows = [
            (
                card.component,
                looks_words(card, SHOWN),
                ", ".join(f"{quoted([token])} {weight:.2g}" for token, weight in card.read.tokens[:SHOWN]),
                behaviours_words(card),
            )
            for card in self.cards
        ]
        columns = ("component", "looks (base, donor)", "most attended", "behaves as (random, base, donor)")
        return Table("What they read", columns, rows, frozenset({1, 2, 3})).without_empty()

    def writes(self) -> Table:
        """Table of what each member writes: its part in the logit difference, and tokens that it raises and lowers."""
        rows = [
            (
                card.component,
                *(figure(x) for x in (card.written.base, card.written.donor, card.written.difference)),
                figure(card.direct),
                "" if card.direct_share is None else f"{card.direct_share:.0%}",
                token_words(card.written.promoted),
                token_words(card.written.suppressed),
            )
            for card in self.cards
        ]
        columns = ("component", "base", "donor", "difference", "direct", "of its effect", "raises", "lowers")
        whole = "" if self.logit_difference is None else f" (the logit difference is {self.logit_difference:+.3g})"
        return Table(f"What they write{whole}", columns, rows, frozenset({6, 7})).without_empty()

    def maps(self) -> Table:
        """Table of each member's weights by themselves: a head's OV map, or an output row."""
        rows = [
            (
                card.component if i == 0 else "",
                quoted([one.token]) if one.token else "" if card.read.attends else card.ov.row,
                quoted(one.raises),
                quoted(one.lowers),
                "" if i or card.ov.copies is None else f"{card.ov.copies:.0%}",
            )
            for card in self.cards
            if card.ov is not None
            for i, one in enumerate(card.ov.moved or (Moved(token="", raises=()),))
        ]
        title = "What their weights alone write (OV maps of heads, output rows of others)"
        return Table(title, ("component", "given", "raises", "lowers", "copies"), rows, frozenset({1, 2, 3}))

    def positions(self, *, single: bool = False) -> Table:
        """Table of each member's effect by role or (``single``) by position from the end."""
        per = [card.single if single else card.roles for card in self.cards]
        where = list(dict.fromkeys(one.where for acting in per for one in acting))
        rows = []
        for card, acting in zip(self.cards, per, strict=True):
            by_name = {one.where: one.effect for one in acting}
            rows.append((card.component, *(figure(by_name.get(name)) for name in where)))
        title = "Where they act, by position from the end" if single else "Where they act, by role"
        return Table(title, ("component", *where), rows)

    def feeds(self, *, every: bool = False) -> Table:
        """Table of who feeds whom: the arrows that are more than next to nothing, or ``every`` one."""
        arrows = self.paths.arrows if every else self.arrows
        rows = [
            (
                arrow.source,
                arrow.target,
                figure(arrow.effect),
                interval_text(arrow.interval, "+.2g"),
                "" if arrow.share is None else f"{arrow.share:.0%}",
                " / ".join(figure(arrow.parts[part]) for part in arrow.parts),
                arrow.mark,
            )
            for arrow in arrows
        ]
        columns = ("from", "to", "effect", "interval", "share", "query / key / value", "mark")
        title = "Who feeds whom (share: of what the first does)"
        return Table(title, columns, rows, frozenset({5, 6})).without_empty()

    def features(self) -> Table:
        """Table of the features of dictionaries: where each is active, what its direction promotes, and its page."""
        rows = [
            (
                card.component,
                f"{one.active_share:.1%}",
                "; ".join(map(active_words, one.active[:2])),
                token_words(one.promoted),
                token_words(one.suppressed),
                one.link or "",
            )
            for card in self.cards
            if (one := card.feature) is not None
        ]
        columns = ("component", "active on", "most in", "promotes", "suppresses", "page")
        return Table("What the features are", columns, rows, frozenset({2, 3, 4, 5})).without_empty()

    def added(self, most: int = 12) -> Table:
        """The largest parts of the logit difference, members or not, and the sum of all.

        Args:
            most: Most rows, the largest parts first.
        """
        check_kind("Explanation.added", "most", most, int)
        largest = sorted(self.parts, key=lambda part: -abs(part[1]))[:most]
        rows = [(name, figure(value)) for name, value in largest]
        rest = len(self.parts) - len(rows)
        rows += [(f"{rest} others", figure(sum(v for _, v in self.parts) - sum(v for _, v in largest)))] * (rest > 0)
        rows += [("sum", figure(self.logit_difference))]
        return Table("What the logit difference is the sum of", ("part", "logits"), rows, frozenset({0}))

    def redacted(self) -> Explanation:
        """The same without anything of the prompts' texts."""
        cards = tuple(
            replace(
                card,
                read=replace(card.read, tokens=()),
                ov=None if card.ov is None else replace(card.ov, moved=()),
                feature=None if card.feature is None else replace(card.feature, active=()),
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
        """Inverse of ``to_dict``. Raises ValueError for data of another form.

        Args:
            data: The mapping that ``to_dict`` gave, or the JSON of ``explanation.json``.
        """
        return made_of(cls, {name: value for name, value in data.items() if name not in ("schema", "words")})

    def members_frame(self) -> pd.DataFrame:
        """One row for each member, with all its numbers."""
        return members_frame(self)

    def arrows_frame(self) -> pd.DataFrame:
        """One row for each arrow, whether or not it is more than next to nothing."""
        return arrows_frame(self)

    def export(self, folder: str | Path) -> tuple[Path, ...]:
        """Write ``explanation.json``, ``explanation.graphml`` and two CSV files into a folder; gives their paths.

        Raises InputError where a file is there already, or none can be written.
        """
        return export(self, folder)

    def tables(self) -> Iterator[Table]:
        """All that have something in them."""
        yield self.table()
        yield self.reads()
        yield self.writes()
        if any(card.ov is not None for card in self.cards):
            yield self.maps()
        if any(card.feature for card in self.cards):
            yield self.features()
        if any(card.roles for card in self.cards):
            yield self.positions()
        if self.arrows:
            yield self.feeds()

    def _repr_html_(self) -> str:
        lines = "".join(escape.paragraph(line) for line in (self.summary, *self.words, *self.notes))
        return lines + diagram_svg(self) + "".join(table._repr_html_() for table in self.tables())

    def __str__(self) -> str:
        return "\n".join(
            [self.summary, *self.words, *self.notes, "", *(f"{table}\n" for table in self.tables())]
        ).rstrip()

    def __repr__(self) -> str:
        return f"Explanation({', '.join(self.components)}; {self.metric}, {self.pairs})"
