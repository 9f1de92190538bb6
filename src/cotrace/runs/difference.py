"""Two runs' answers side by side: how far the sets overlap, and what each does to the pairs that both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cotrace.errors import InputError
from cotrace.results import Frontier, Selection, Table
from cotrace.results.table import number
from cotrace.runs.addenda import with_effects
from cotrace.runs.config_file import read_run_config
from cotrace.runs.manifest import Manifest, holds, remedy
from cotrace.runs.result_files import StoredRun, enough
from cotrace.statistics import Interval, Units, interval_text, mean_interval
from cotrace.text.files import parse_json, read_text

EXAMPLES = "examples.json"
PARTS = ("heldout", "training")


@dataclass(frozen=True, kw_only=True)
class PairedEffects:
    """The answer of one search in both runs: the smallest set with 90 % of the best effect."""

    search: str
    k_one: int
    k_other: int
    shared: tuple[str, ...]
    """Components in both sets."""
    only_one: tuple[str, ...]
    only_other: tuple[str, ...]
    overlap: float
    """Members in both as a share of the members of either (Jaccard)."""
    overlap_by_chance: float | None
    """The same expected of random sets of these sizes; None where the spaces differ."""
    part: str | None = None
    """Which pairs the effects are of: heldout, else training; None where both runs kept effects of no pair."""
    pairs: int = 0
    effect_one: float | None = None
    effect_other: float | None = None
    difference: float | None = None
    """Mean of second less first, pair by pair."""
    difference_interval: Interval | None = None


def paired(one: StoredRun, other: StoredRun) -> Iterator[PairedEffects]:
    """Compare every search that both runs have. Raises DamagedRun, InputError for a file that no run writes."""
    theirs = {frontier.search: frontier for frontier in other.frontiers}
    for frontier in one.frontiers:
        if frontier.search in theirs and frontier.mode == theirs[frontier.search].mode:
            yield _paired((one.path, frontier), (other.path, theirs[frontier.search]))


def _paired(one: tuple[Path, Frontier], other: tuple[Path, Frontier]) -> PairedEffects:
    (_, first), (_, second) = one, other
    a, b = enough(first), enough(second)
    mine, yours = set(a.components), set(b.components)
    effects = _both(one, a, other, b) if first.metric == second.metric else None
    same = first.space.components == second.space.components
    return PairedEffects(
        search=first.search,
        k_one=a.k,
        k_other=b.k,
        shared=tuple(name for name in a.components if name in yours),
        only_one=tuple(name for name in a.components if name not in yours),
        only_other=tuple(name for name in b.components if name not in mine),
        overlap=len(mine & yours) / len(mine | yours),
        overlap_by_chance=_chance(a.k, b.k, len(first.space)) if same else None,
        **({} if effects is None else effects),
    )


def _chance(k: int, other: int, n: int) -> float:
    """Members that random sets share, k * other / n on average, as a share of those of either."""
    shared = k * other / n
    return shared / (k + other - shared)


def _both(
    one: tuple[Path, Frontier], a: Selection, other: tuple[Path, Frontier], b: Selection
) -> dict[str, Any] | None:
    """Effects of both sets on the pairs that both runs have in the same part, where they kept them."""
    for part in PARTS:
        mine, yours = _effects(*one, a, part), _effects(*other, b, part)
        ids = [name for name in mine if name in yours]
        if ids:
            first, second = (np.array([each[name] for name in ids]) for each in (mine, yours))
            return {
                "part": part,
                "pairs": len(ids),
                "effect_one": float(first.mean()),
                "effect_other": float(second.mean()),
                "difference": float((second - first).mean()),
                "difference_interval": mean_interval(second - first, Units.made(len(ids))),
            }
    return None


def _effects(folder: Path, frontier: Frontier, selection: Selection, part: str) -> Mapping[str, float]:
    """Pair -> effect of a set; empty where the run did not keep them."""
    found = with_effects(folder, frontier)
    table = found.effects_heldout if part == "heldout" else found.effects
    row = None if table is None else table.find(np.packbits(_chosen(frontier, selection)).tobytes())
    ids = _ids(folder, part)
    return {} if row is None or len(ids) != len(row) else dict(zip(ids, map(float, row), strict=True))


def _chosen(frontier: Frontier, selection: Selection) -> Bool[np.ndarray, "n"]:
    return np.asarray(frontier.space.indicator(selection.members))


def _ids(folder: Path, part: str) -> list[str]:
    """Ids of the pairs of a part, in the order of their effects."""
    if not holds(folder, EXAMPLES):
        return []
    path = folder / EXAMPLES
    try:
        return [str(one["id"]) for one in parse_json(read_text(path), str(path))[part]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not what a run writes ({error}); {remedy(folder)}") from None


def paired_table(rows: list[PairedEffects]) -> Table:
    """One row for each search."""
    heads = ("search", "k", "shared", "overlap", "by chance", "pairs", "effects", "second less first", "interval")
    return Table(
        "The answers of both (smallest set with 90 % of the best effect)",
        heads,
        [_cells(r) for r in rows],
        frozenset({0}),
    )


def _cells(one: PairedEffects) -> tuple[str, ...]:
    effects = "" if one.part is None else f"{number(one.effect_one)} / {number(one.effect_other)}"
    return (
        one.search,
        f"{one.k_one} / {one.k_other}",
        str(len(one.shared)),
        f"{one.overlap:.0%}",
        "" if one.overlap_by_chance is None else f"{one.overlap_by_chance:.0%}",
        "" if one.part is None else f"{one.pairs} {'held out' if one.part == 'heldout' else 'searched'}",
        effects,
        number(one.difference),
        interval_text(one.difference_interval),
    )


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
    """Number of these sizes with the same selection."""
    first_change: int | None
    """The smallest size with another selection."""
    largest_difference: float
    """Largest difference of the effects, on pairs searched and held out, at sizes that both have."""
    scale: float
    """The largest effect."""

    @property
    def words(self) -> str:
        """The comparison in one sentence."""
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
    """Differences between two runs."""

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
        """Tables of the differing settings and records, then of the results of each search."""
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
    effects = [both for a, b in pairs for both in _difference_effects(a, b)]
    return Agreement(
        search=one.search,
        sizes=len(sizes),
        same_sets=len(sizes) - len(changed),
        first_change=min(changed, default=None),
        largest_difference=max((abs(a - b) for a, b in effects), default=0.0),
        scale=max((abs(a) for pair in effects for a in pair), default=0.0),
    )


def _difference_effects(one: Selection, other: Selection) -> Iterator[tuple[float, float]]:
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
