"""Verification of a run: are its files as they were written, and do its effects come out again, here and now?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.errors import DamagedRun, InputError
from cotrace.problem.protocol import Problem, mask_of
from cotrace.results import Frontier, Table
from cotrace.results.effects import EffectTable
from cotrace.results.frontier_file import COLUMNS, OLD_COLUMNS
from cotrace.runs.addenda import arrays_of, check_same, with_effects
from cotrace.runs.config_file import read_run_config
from cotrace.runs.manifest import Manifest, remedy
from cotrace.runs.prepare import Prepared
from cotrace.runs.provenance import versions
from cotrace.runs.result_files import SELECTION, StoredRun, frontier_csv, masks, sizes
from cotrace.statistics import Units

Outcome = Literal["same", "within tolerance", "different"]
TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference that counts as rounding, relative to the largest effect, or to ``SMALLEST`` where all are less."""
SMALLEST = 0.1
"""Effects are differences of numbers of about 1 and more, whose rounding does not become less with the difference."""
KEPT_AS = 1e-6
"""Effects of single examples are kept in float32: their mean is no nearer to what was reported."""
SIZES = 16
"""Most selections of each search that are computed again, spread over its sizes."""


@dataclass(frozen=True)
class Recomputed:
    """The effects of one search's selections, computed again."""

    search: str
    part: str
    """``training`` or ``held-out``."""
    selections: int
    examples: int
    largest_difference: float
    scale: float
    outcome: Outcome


@dataclass(frozen=True)
class Verification:
    """Outcome of verifying a run."""

    files: int
    """Files whose hash was checked; all are as they were written."""
    recomputed: tuple[Recomputed, ...]
    elsewhere: tuple[str, ...]
    """Versions that differ from the run's, in words."""

    @property
    def outcome(self) -> Outcome:
        """The worst of all."""
        order: tuple[Outcome, ...] = ("different", "within tolerance", "same")
        return next(one for one in order if any(each.outcome == one for each in self.recomputed))

    @property
    def verdict(self) -> str:
        """One sentence."""
        said = {
            "same": "the effects computed again are the same, bit for bit",
            "within tolerance": "the effects computed again agree up to rounding",
            "different": "the effects computed again DIFFER by more than rounding",
        }[self.outcome]
        return f"All {self.files} files are as the run wrote them; {said}."

    def table(self) -> Table:
        """One row for each search and part."""
        heads = ("search", "pairs", "selections", "examples", "largest difference", "largest effect", "outcome")
        rows = [
            (
                one.search,
                one.part,
                str(one.selections),
                str(one.examples),
                f"{one.largest_difference:.2g}",
                f"{one.scale:.3g}",
                one.outcome,
            )
            for one in self.recomputed
        ]
        return Table("Computed again", heads, rows, frozenset({0, 1, 6}))

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"outcome": self.outcome, "verdict": self.verdict}


def check_examples(examples: int) -> None:
    """Raise InputError where there is nothing to compute again."""
    if examples < 1:
        raise InputError(f"examples is {examples}: compute at least 1 again")


def check_hashes(run: StoredRun) -> int:
    """How many files the manifest lists; all are as they were written. Raises DamagedRun naming those that are not."""
    manifest = Manifest.read(run.path)
    if damaged := manifest.damaged():
        raise DamagedRun(f"{'; '.join(damaged.values())}: restore the files, or do not trust the run")
    return len(manifest.files)


def check_consistent(run: StoredRun) -> None:
    """Raise DamagedRun where frontier.csv or the masks do not say what selection.json says."""
    written = _content(run, "frontier.csv")
    # Runs of before these columns were there have none of what they hold.
    old = written.startswith(f"{','.join(OLD_COLUMNS)}\n".encode())
    bare = all(one.reported_before is None for one in run.frontiers)
    if written != frontier_csv(run.frontiers, OLD_COLUMNS if old and bare else COLUMNS):
        raise DamagedRun(f"{run.path / 'frontier.csv'} does not say what {SELECTION} says; {remedy(run.path)}")
    try:
        kept = arrays_of(_content(run, "masks.safetensors"))
    except ValueError:
        kept = {}
    wanted = {f"{one.search}.masks": masks(one) for one in run.frontiers}
    wanted |= {f"{one.search}.sizes": sizes(one) for one in run.frontiers}
    if not all(name in kept and np.array_equal(kept[name], array) for name, array in wanted.items()):
        raise DamagedRun(f"{run.path / 'masks.safetensors'} does not hold what {SELECTION} says; {remedy(run.path)}")


def _content(run: StoredRun, name: str) -> bytes:
    try:
        return (run.path / name).read_bytes()
    except OSError as error:
        raise DamagedRun(f"{run.path / name} cannot be read ({error.strerror}); {remedy(run.path)}") from None


def verify(run: StoredRun, prepared: Prepared, examples: int, seed: int = 0) -> Verification:
    """Check every hash of a finished run, then compute so many examples of its selections again.

    Raises DamagedRun, and InputError where model, data, tokenizer or metric are not the run's.
    """
    check_examples(examples)
    files = check_hashes(run)
    check_consistent(run)
    check_same(run.path, prepared)
    frontiers = [with_effects(run.path, frontier) for frontier in run.frontiers]
    tolerance = TOLERANCES[prepared.config.dtype]
    recomputed = [row for one in frontiers for row in _again(one, prepared.goal, examples, tolerance, seed)]
    return Verification(files, tuple(recomputed), tuple(_elsewhere(run)))


def _again(frontier: Frontier, problem: Problem, examples: int, tolerance: float, seed: int) -> Iterator[Recomputed]:
    """Both parts of one search, where there are both."""
    some = _spread(frontier.sizes)
    chosen = np.stack([problem.space.indicator(frontier.at(size).members) for size in some])
    stored = [frontier.at(size).effect for size in some]
    yield _compared(frontier.search, "training", problem, chosen, frontier.effects, stored, examples, tolerance, seed)
    unseen = [frontier.at(size).effect_heldout for size in some]
    if problem.heldout is not None and None not in unseen:
        part = problem.heldout
        table = frontier.effects_heldout
        yield _compared(frontier.search, "held-out", part, chosen, table, unseen, examples, tolerance, seed)


def _spread(sizes: Sequence[int]) -> list[int]:
    """At most so many sizes, the first and the last among them."""
    at = np.unique(np.linspace(0, len(sizes) - 1, min(SIZES, len(sizes))).round().astype(int))
    return [sizes[i] for i in at]


def _compared(
    search: str,
    part: str,
    problem: Problem,
    chosen: Bool[np.ndarray, "set n"],
    table: EffectTable | None,
    stored: Sequence[float | None],
    examples: int,
    tolerance: float,
    seed: int,
) -> Recomputed:
    """Effects of some examples against those kept, or the aggregate over all where none were kept."""
    kept = _kept(table, chosen, problem.size)
    masks = mask_of(problem, torch.from_numpy(chosen).float())
    if kept is None:
        was, now = np.array(stored, float), problem.value(masks).double().cpu().numpy()
        count = problem.size
    else:
        count = min(examples, problem.size)
        some = sorted(np.random.default_rng(seed).permutation(problem.size)[:count].tolist())
        was, now = kept[:, some], problem.effects(masks, some).float().cpu().numpy()
    difference, scale = float(np.abs(was - now).max()), float(np.abs(was).max())
    if kept is not None:
        gap = _gap(kept, stored, problem)
        difference = difference if gap <= max(tolerance, KEPT_AS) * max(SMALLEST, scale) else max(difference, gap)
    return Recomputed(search, part, len(chosen), count, difference, scale, _outcome(difference, scale, tolerance))


def _gap(kept: Float[np.ndarray, "set ex"], stored: Sequence[float | None], problem: Problem) -> float:
    """Return the distance of the reported value from the mean of the kept effects."""
    mean = np.average(kept.astype(float), axis=1, weights=Units.of(problem).weight)
    return float(np.abs(mean - np.array(stored, float)).max())


def _kept(
    table: EffectTable | None, chosen: Bool[np.ndarray, "set n"], size: int
) -> Float[np.ndarray, "set ex"] | None:
    """Effects that the run kept of all these sets; None where it did not."""
    if table is None or table.effects.shape[1] != size:
        return None
    rows = [table.find(np.packbits(row).tobytes()) for row in chosen]
    found = [row for row in rows if row is not None]
    return np.stack(found) if len(found) == len(rows) else None


def _outcome(difference: float, scale: float, tolerance: float) -> Outcome:
    if difference == 0:
        return "same"
    return "within tolerance" if difference <= tolerance * max(SMALLEST, scale) else "different"


def _elsewhere(run: StoredRun) -> Iterator[str]:
    """Return the packages whose versions here are not the run's."""
    then = read_run_config(run.path)[1].get("versions") or {}
    for name, now in versions().items():
        if then.get(name) != now:
            yield f"{name} {now}, the run had {then.get(name)}"
