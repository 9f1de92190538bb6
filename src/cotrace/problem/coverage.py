"""Coverage: which share of the pairs was refused, and whether that share differs between groups.

Names that tokenise longer are often a minority's, so what is left out is not left out at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from cotrace.batches import Refusal
from cotrace.prompts import PromptPair
from cotrace.results import Table

LARGE_SHARE = 0.05
"""Refused share above which a run says so before anything else."""
UNEQUAL_P = 0.01
"""Below this p-value of Fisher's exact test (chi-squared for more than two groups), shares are called unequal."""


@dataclass(frozen=True)
class Coverage:
    """Pairs and refusals, by group."""

    pairs: int
    refused: int
    groups: dict[str, tuple[int, int]]
    """Group -> (pairs, refused); empty where no pair names a group."""

    @classmethod
    def of(cls, pairs: Sequence[PromptPair], refused: Sequence[Refusal]) -> Coverage:
        """Count the pairs of a task and those of them that were refused."""
        all_, out = Counter(p.group for p in pairs if p.group), Counter(r.group for r in refused if r.group)
        return cls(len(pairs), len(refused), {group: (count, out[group]) for group, count in sorted(all_.items())})

    @property
    def unequal(self) -> bool:
        """Whether groups lose different shares of their pairs, beyond chance."""
        table = [[refused, pairs - refused] for pairs, refused in self.groups.values()]
        if len(table) < 2 or not any(row[0] for row in table) or not any(row[1] for row in table):
            return False
        test = stats.fisher_exact if len(table) == 2 else stats.chi2_contingency
        return bool(test(table).pvalue < UNEQUAL_P)

    @property
    def words(self) -> str:
        """What a run says first: empty where every pair is used."""
        if not self.refused:
            return ""
        text = f"{self.refused} of {self.pairs} pairs refused"
        if self.refused > LARGE_SHARE * self.pairs or self.unequal:
            shares = ", ".join(f"{group} {out} of {pairs}" for group, (pairs, out) in self.groups.items())
            text += " (" + (shares + "; " if shares else "") + "the results cover only the rest)"
            text += ", in unequal shares" if self.unequal else ""
        return text + ". "

    def table(self) -> Table:
        """One row for each group."""
        rows = [(g, str(n), str(out), f"{100 * out / n:.1f} %") for g, (n, out) in self.groups.items()]
        total = ("all", str(self.pairs), str(self.refused), f"{100 * self.refused / self.pairs:.1f} %")
        return Table("Pairs refused", ("group", "pairs", "refused", "share"), [*rows, total], frozenset({0}))
