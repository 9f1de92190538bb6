"""Difference of two runs: what was asked and recorded differently, and whether the results agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cotrace.results import Frontier, Selection, Table
from cotrace.runs.config_file import read_run_config
from cotrace.runs.manifest import Manifest
from cotrace.runs.paired import PairedEffects, paired, paired_table
from cotrace.runs.stored import StoredRun

RESULT_FILES = ("frontier.csv", "masks.safetensors")
ROUNDING = 1e-4
"""Effects that differ by less than this share of the largest one are alike up to rounding."""
SHOWN = 60
"""Characters of a value that are shown."""
OUTCOMES = ("summary", "command", "platform")
"""Entries of the record that say where and how, and never make results differ."""


@dataclass(frozen=True)
class Change:
    """One entry that differs."""

    entry: str
    one: str
    other: str


@dataclass(frozen=True)
class Agreement:
    """One search's results in both runs."""

    search: str
    sizes: int
    """Sizes that both have."""
    same_sets: int
    """Of these, how many have the same selection."""
    first_change: int | None
    """The smallest size with another selection."""
    largest_difference: float
    """Of the effects, on pairs searched and held out, at sizes that both have."""
    scale: float
    """The largest effect."""

    @property
    def words(self) -> str:
        """What it comes to."""
        if not self.sizes:
            return "no size is in both runs"
        if self.same_sets < self.sizes:
            return f"{self.sizes - self.same_sets} of {self.sizes} selections differ, from k = {self.first_change}"
        if self.largest_difference == 0:
            return f"the same {self.sizes} selections with the same effects"
        how = "rounding" if self.largest_difference <= ROUNDING * self.scale else "more than rounding"
        return f"the same {self.sizes} selections; effects differ by {self.largest_difference:.2g} at most: {how}"


@dataclass(frozen=True)
class RunDifference:
    """What differs between two runs."""

    changes: tuple[Change, ...]
    agreements: tuple[Agreement, ...]
    only_one: tuple[str, ...]
    """Searches that only one of the runs has."""
    same_bytes: bool
    """Whether the result files are equal byte by byte."""
    paired: tuple[PairedEffects, ...] = ()
    """The answer of each search that both have: overlap of the sets, and their effects pair by pair."""

    @property
    def agree(self) -> bool:
        """Whether both runs found the same selections with the same effects, up to rounding."""
        alike = all(0 < a.sizes == a.same_sets and a.largest_difference <= ROUNDING * a.scale for a in self.agreements)
        return self.same_bytes or (alike and bool(self.agreements) and not self.only_one)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.same_bytes:
            return f"The results agree byte by byte ({', '.join(RESULT_FILES)})."
        if self.agree:
            return "The results agree: the same selections at every size that both have, effects alike up to rounding."
        if not any(agreement.sizes for agreement in self.agreements):
            return "The results cannot be compared: no search has a size in both runs over the same components."
        return "The results differ."

    def tables(self) -> Iterator[Table]:
        """What was asked and recorded differently; then the results of each search."""
        if self.changes:
            rows = [(change.entry, change.one, change.other) for change in self.changes]
            yield Table("What differs", ("entry", "first", "second"), rows, frozenset({0, 1, 2}))
        if self.agreements:
            yield Table(
                "Results", ("search", "verdict"), [(a.search, a.words) for a in self.agreements], frozenset({0, 1})
            )
        if self.paired and not self.same_bytes:
            yield paired_table(list(self.paired))

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"agree": self.agree, "verdict": self.verdict}


def difference(one: StoredRun, other: StoredRun) -> RunDifference:
    """Compare two finished runs. Raises InputError, DamagedRun."""
    files = [Manifest.read(run.path).files for run in (one, other)]
    for run in (one, other):
        Manifest.read(run.path).check(RESULT_FILES)
    theirs = {frontier.search: frontier for frontier in other.frontiers}
    shared = [(f, theirs[f.search]) for f in one.frontiers if f.search in theirs and _comparable(f, theirs[f.search])]
    names = {frontier.search for frontier in one.frontiers} ^ set(theirs)
    return RunDifference(
        changes=tuple(_changes(_entries(one), _entries(other))),
        agreements=tuple(_agreement(a, b) for a, b in shared),
        only_one=tuple(sorted(names)),
        paired=tuple(paired(one, other)),
        same_bytes=all(name in files[0] and files[0][name] == files[1].get(name) for name in RESULT_FILES),
    )


def _comparable(one: Frontier, other: Frontier) -> bool:
    return one.space.components == other.space.components and one.mode == other.mode and one.metric == other.metric


def _agreement(one: Frontier, other: Frontier) -> Agreement:
    sizes = [size for size in one.sizes if size in other.sizes]
    pairs = [(one.at(size), other.at(size)) for size in sizes]
    changed = [a.k for a, b in pairs if set(a.members) != set(b.members)]
    effects = [both for a, b in pairs for both in _effects(a, b)]
    return Agreement(
        search=one.search,
        sizes=len(sizes),
        same_sets=len(sizes) - len(changed),
        first_change=min(changed, default=None),
        largest_difference=max((abs(a - b) for a, b in effects), default=0.0),
        scale=max((abs(a) for pair in effects for a in pair), default=0.0),
    )


def _effects(one: Selection, other: Selection) -> Iterator[tuple[float, float]]:
    """The effects that both have, on pairs searched and held out."""
    for a, b in ((one.effect, other.effect), (one.effect_heldout, other.effect_heldout)):
        if a is not None and b is not None:
            yield a, b


def _entries(run: StoredRun) -> dict[str, Any]:
    """Everything that a run's config.yaml says, one level deep: ``dtype``, ``record.versions.torch``."""
    config, record = read_run_config(run.path)
    asked = {name: value for name, value in asdict(config).items() if name != "out"}
    return asked | dict(_flat({name: value for name, value in record.items() if name not in OUTCOMES}, "record"))


def _flat(entries: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}.{name}")
        else:
            yield f"{above}.{name}", value


def _changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    """The values themselves are compared; only then are they shortened."""
    for entry in dict.fromkeys((*one, *other)):
        a, b = one.get(entry), other.get(entry)
        if a != b:
            yield Change(entry, *_apart(_text(a), _text(b)))


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts that differ, cut so that where they do is seen."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = 0 if max(len(one), len(other)) <= SHOWN else max(0, same - SHOWN // 2)
    return _cut(one, start), _cut(other, start)


def _cut(text: str, start: int) -> str:
    before, after = "..." if start else "", "..." if len(text) > start + SHOWN else ""
    return f"{before}{text[start : start + SHOWN]}{after}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
