"""Task: prompt pairs with a metric; and how they are divided into training, held-out and audit pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair, values_of
from cotrace.text import escape
from cotrace.text.progress_bar import warn
from cotrace.validation import check_fields, check_kind, guarded

if TYPE_CHECKING:
    import pandas as pd


class RepeatedPairs(UserWarning):
    """Pairs that are held out have been searched under another id."""


class Parts(NamedTuple):
    """Indices of pairs, each in file order."""

    training: list[int]
    heldout: list[int]
    audit: list[int]
    """Touched by nothing until the final figures."""


def split(pairs: Sequence[PromptPair], share: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of training and held-out pairs, both in file order. Pairs with one ``split_group`` stay together."""
    parts = split_parts(pairs, share, seed)
    return parts.training, parts.heldout


def split_parts(
    pairs: Sequence[PromptPair], share: float | int, seed: int, *, audit: float | int = 0, by: str | None = None
) -> Parts:
    """Training, held-out and audit pairs. Pairs with one value of the field ``by`` (``split_group``) stay together.

    Groups are drawn in random order until the held-out share is reached, then on until the audit share is; so the
    held-out pairs are the same with and without an audit. Raises InputError where a part would be empty, or a pair
    lacks the field.
    """
    for name, value in (("holdout", share), ("audit", audit)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}: give a share of the pairs from 0 (none) to below 1")
    members = _members(groups(pairs, by))
    order = [members[g] for g in np.random.default_rng(seed).permutation(len(members))] if share or audit else []
    held, rest = _draw(order, share * len(pairs))
    audited, _ = _draw(rest, audit * len(pairs))
    training = sorted(set(range(len(pairs))) - set(held) - set(audited))
    wanted = [(True, training), (share > 0, held), (audit > 0, audited)]
    if not all(part for asked, part in wanted if asked):
        also = f" and audit={audit}" if audit else ""
        raise InputError(
            f"holdout={share}{also} of {len(pairs)} pairs in {len(members)} groups leaves one side empty: give more "
            "pairs, or holdout=0"
        )
    return Parts(training, sorted(held), sorted(audited))


def split_ids(
    pairs: Sequence[PromptPair], share: float | int, seed: int, *, audit: float | int = 0, by: str | None = None
) -> tuple[frozenset[str], ...]:
    """The same as the pairs' ids, which still hold where pairs are refused afterwards."""
    parts = split_parts(pairs, share, seed, audit=audit, by=by)
    return tuple(frozenset(pairs[i].id for i in part) for part in parts)


def warn_of_repeats(pairs: Sequence[PromptPair], parts: Sequence[frozenset[str]]) -> None:
    """Warn where pairs with the same prompts, but for case and blanks, stand on different sides of the split."""
    first: dict[object, tuple[int, str]] = {}
    across: list[tuple[str, str]] = []
    for pair in pairs:
        side = next((i for i, part in enumerate(parts) if pair.id in part), None)
        if side is not None:
            seen, name = first.setdefault(_prompts(pair), (side, pair.id))
            across += [(name, pair.id)] if seen != side else []
    if across:
        few = ", ".join(" and ".join(couple) for couple in across[:2])
        warn(
            f"{len(across)} pairs have the prompts of a pair on another side of the split ({few}), so what is held out "
            "has been seen: give such pairs one split_group, or name a field that they share, as split_by='FIELD'",
            RepeatedPairs,
        )


def _prompts(pair: PromptPair) -> tuple[str, ...]:
    """Both prompts without what hardly sets them apart."""
    chats = [[message.get("content") for message in chat] for chat in (pair.messages, pair.counterfactual_messages)]
    texts = (pair.base, pair.counterfactual or "", *map(str, chats))
    return tuple(" ".join(text.split()).casefold() for text in texts)


def groups(pairs: Sequence[PromptPair], by: str | None = None) -> list[str]:
    """Return the group of each pair: its value of the field, or itself where it has none and none is asked for.

    Raises InputError where a pair lacks the field that was asked for.
    """
    if by is None:
        return [f"pair {i}" if p.split_group is None else f"group {p.split_group}" for i, p in enumerate(pairs)]
    values = values_of(pairs, by)
    missing = next((pair.id for pair, value in zip(pairs, values, strict=True) if not value), None)
    if missing is not None:
        raise InputError(f"split_by={by!r}: pair {missing} has no such field; name one that every pair has")
    return [f"group {value}" for value in values]


def _members(labels: Sequence[str]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        found.setdefault(label, []).append(i)
    return list(found.values())


def _draw(order: list[list[int]], count: float) -> tuple[list[int], list[list[int]]]:
    """Groups from the front until there are so many pairs, and the groups that are left."""
    taken: list[int] = []
    for used, group in enumerate(order):
        if len(taken) >= count:
            return taken, order[used:]
        taken += group
    return taken, []


Score = Literal["sum", "mean"]
Encoding = Literal["joint", "alone", "text"]
SHOWN = 3
"""Pairs that a notebook shows."""


@guarded("ct.Task", fields=False)
@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompt pairs with a metric: all that a problem needs to know about the data."""

    name: str
    """Name of the task in tables and files."""
    pairs: tuple[PromptPair, ...] = field(repr=False)
    """The prompt pairs, in the order of the file."""
    metric: str = "log_odds"
    """Name of the metric that the task is judged by unless the user asks for another."""
    score: Score = "sum"
    """Whether an answer's score is the sum or the mean of its tokens' log-probabilities."""
    encoding: Encoding = "joint"
    """``joint``: an answer's tokens are what tokenising prompt + answer adds; ``alone``: the answer's own;
    ``text``: prompt and answer are one text, whose first token is the prompt."""
    sites: tuple[str, ...] = ("head_output",)
    """Sites that are traced unless the user names others."""
    donors: str = "counterfactual"
    """Donor source that is used unless the user names another, as on the command line (``noise=0.6045``)."""
    conventions: Literal["corrected", "paper", "own"] = "own"
    """Whether the data follow the paper's code, its corrected form, or the user's own file."""
    source: str = ""
    """Where the data come from, for the record."""
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Records of the source that could not be used: (which, why). Listed and counted, never dropped in silence."""

    def __post_init__(self) -> None:
        check_fields(f"task {self.name}", self)
        if not self.pairs:
            raise InputError(f"task {self.name}: the data set is empty; it needs at least one pair")
        seen: set[str] = set()
        for pair in self.pairs:
            if pair.id in seen:
                raise InputError(f"task {self.name}: the id {pair.id!r} stands twice; ids must differ")
            seen.add(pair.id)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Task({self.name}, {len(self)} pairs, {self.metric})"

    @property
    def sha256(self) -> str:
        """Hash of the pairs and of how they are scored, for the record of a run."""
        payload = [self.score, self.encoding, [asdict(pair) for pair in self.pairs]]
        return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()

    def _repr_html_(self) -> str:
        answers = "log-probability of the answer's tokens, " + {"sum": "summed", "mean": "averaged"}[self.score]
        judged = f"{self.metric} ({answers})"
        skipped = f"{len(self.skipped)}; the first, {': '.join(self.skipped[0])}" if self.skipped else ""
        facts = {"pairs": len(self), "judged by": judged, "donors": self.donors, "source": self.source}
        rows = [(pair.id, *_task_prompts(pair), " / ".join(pair.answers)) for pair in self.pairs[:SHOWN]]
        first = f"The first {len(rows)}"
        return escape.facts(f"Task {self.name}", facts | {"records that cannot be used": skipped}) + escape.table(
            first, ("id", "base", "counterfactual", "answers"), rows, left=range(4)
        )

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]] | pd.DataFrame, *, name: str = "records", metric: str = "log_odds"
    ) -> Task:
        """Task from dicts or a DataFrame with the JSON Lines format's fields. Raises InputError naming the record.

        Args:
            records: Mappings of fields to values, one a pair, or a DataFrame with a column for each field.
            name: Name of the task.
            metric: Name of the metric that it is judged by.
        """
        from cotrace.prompts.pair_files import pairs_from_records

        return cls(name=name, pairs=pairs_from_records(records), metric=metric, source=name)

    @classmethod
    def from_jsonl(cls, path: str | Path, *, metric: str = "log_odds") -> Task:
        """Task from a JSON Lines file; each line is checked, errors name the line. Raises InputError.

        Args:
            path: The file; ``.csv`` and ``.tsv`` are read as tables.
            metric: Name of the metric that it is judged by.
        """
        from cotrace.prompts.pair_files import read_pairs

        check_kind("Task.from_jsonl", "path", path, str | Path)
        path = Path(path)
        return cls(name=path.stem, pairs=read_pairs(path), metric=metric, source=path.name)


def _task_prompts(pair: PromptPair) -> tuple[str, str]:
    """Return base and counterfactual as text; of a chat the last message."""
    last = [str(chat[-1].get("content", "")) if chat else "" for chat in (pair.messages, pair.counterfactual_messages)]
    return pair.base or last[0], pair.counterfactual or last[1]
