"""Coverage: pairs that were refused or have no donor's value, and the warnings that say so.

Names that tokenise longer are often a minority's, so what is left out is not left out at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cotrace.batches import EncodedPair, Encoding, Refusal
from cotrace.components import ComponentSpace
from cotrace.prompts import PromptPair, Task
from cotrace.results import Table
from cotrace.text.progress_bar import warn

if TYPE_CHECKING:
    pass

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
    without_donor: Mapping[str, int] = field(default_factory=dict)
    """Role -> usable pairs in which none of its positions takes a donor's value: a swap there does nothing to them."""
    shifted: Mapping[str, int] = field(default_factory=dict)
    """Role -> pairs in which its words stand at other tokens in the donor prompt, under ``align='exact'``."""

    @classmethod
    def of(
        cls,
        pairs: Sequence[PromptPair],
        refused: Sequence[Refusal],
        used: Sequence[EncodedPair] = (),
        roles: Sequence[str] = (),
    ) -> Coverage:
        """Count the pairs of a task, those that were refused, and the ``used`` ones without a donor at these roles."""
        all_, out = Counter(p.group for p in pairs if p.group), Counter(r.group for r in refused if r.group)
        groups = {group: (count, out[group]) for group, count in sorted(all_.items())}
        lacking = Counter(role for pair in used for role in roles if not pair.has_donor(role))
        shifted = Counter(role for pair in used for role in roles if role in pair.shifted)
        return cls(len(pairs), len(refused), groups, dict(lacking), dict(shifted))

    @property
    def unequal(self) -> bool:
        """Whether groups lose different shares of their pairs, beyond chance."""
        table = [[refused, pairs - refused] for pairs, refused in self.groups.values()]
        if len(table) < 2 or not any(row[0] for row in table) or not any(row[1] for row in table):
            return False
        from scipy import stats  # half a second, which only refused pairs of several groups need

        test = stats.fisher_exact if len(table) == 2 else stats.chi2_contingency
        return bool(test(table).pvalue < UNEQUAL_P)

    @property
    def words(self) -> str:
        """Warning that a run prints first; empty where every pair is used."""
        return "".join(f"{sentence}. " for sentence in (self._refusals, self.positions) if sentence)

    @property
    def positions(self) -> str:
        """Return roles whose pairs lack a donor's value, or take that of other words; empty where none does."""
        used = self.pairs - self.refused
        lacking = [f"at role {role} {count} of {used}" for role, count in self.without_donor.items()]
        shifted = [f"role {role} in {count} of {used}" for role, count in self.shifted.items()]
        said = [f"{', '.join(lacking)} pairs have no donor position: a swap there leaves them as they are"] * bool(
            lacking
        )
        if shifted:
            where = ", ".join(shifted)
            said.append(f"other words of the counterfactual stand at {where} pairs (align='spans' goes by spans)")
        return "; ".join(said)

    @property
    def _refusals(self) -> str:
        if not self.refused:
            return ""
        text = f"{self.refused} of {self.pairs} pairs refused"
        if self.refused > LARGE_SHARE * self.pairs or self.unequal:
            shares = ", ".join(f"{group} {out} of {pairs}" for group, (pairs, out) in self.groups.items())
            text += " (" + (shares + "; " if shares else "") + "the results cover only the rest)"
            text += ", in unequal shares" if self.unequal else ""
        return text

    def table(self) -> Table:
        """One row for each group."""
        rows = [(g, str(n), str(out), f"{100 * out / n:.1f} %") for g, (n, out) in self.groups.items()]
        rows.append(("all", str(self.pairs), str(self.refused), f"{100 * self.refused / self.pairs:.1f} %"))
        used = self.pairs - self.refused
        without = self.without_donor.items()
        rows += [(f"no donor at role {role}", str(used), str(n), f"{100 * n / used:.1f} %") for role, n in without]
        return Table("Pairs refused", ("group", "pairs", "refused", "share"), rows, frozenset({0}))


class RefusedPairs(UserWarning):
    """Some pairs cannot be used; the problem lists them in ``refused``."""


class PairsWithoutDonor(UserWarning):
    """Warning that in some pairs no position of a role takes a donor's value; ``problem.coverage`` counts them."""


class NestedSites(UserWarning):
    """A component of the space holds another one."""


def warn_of(encoding: Encoding, space: ComponentSpace, task: Task) -> None:
    """Say which pairs cannot be used, and where those that can take no donor's value."""
    if refused := encoding.refused:
        warn(f"{len(refused)} of {len(task)} pairs refused; the first: {refused[0].reason}", RefusedPairs)
    roles = list(dict.fromkeys(block.role for block in space.blocks))
    if said := Coverage.of(task.pairs, refused, encoding.pairs, roles).positions:
        warn(said, PairsWithoutDonor)
