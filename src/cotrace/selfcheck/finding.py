"""Findings of the self-check: one line per property, with the measured error and where it is largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cotrace.text import escape
from cotrace.validation import guarded


@dataclass(frozen=True)
class Finding:
    """One property of one model, measured."""

    name: str
    """The property."""
    error: float | None
    """Largest deviation, relative to the largest value compared (or 1); None where it was not measured."""
    tolerance: float
    where: str = ""
    """Site, layer or row of the largest deviation."""
    note: str = ""
    """Why it was not measured, or what else is to be said."""
    broken: bool = False
    """Whether it failed for a reason that is no deviation, such as a hook that never fired."""
    estimate: bool = False
    """Whether the error holds that of the measurement too, as a difference quotient's."""

    @property
    def ok(self) -> bool:
        return not self.broken and (self.error is None or self.error <= self.tolerance)

    @property
    def verdict(self) -> str:
        return "FAILED" if not self.ok else "said" if self.error is None else "ok"

    @property
    def words(self) -> str:
        """The finding in one line, as an error says it."""
        size = "" if self.error is None else f", off by {self.error:.2g} where {self.tolerance:.0e} is allowed"
        return f"{self.name}{f' at {self.where}' if self.where else ''}{size}{f' ({self.note})' if self.note else ''}"


@guarded("ct.CheckReport")
@dataclass(frozen=True)
class CheckReport:
    """Every property of a model that was checked. Prints as a table."""

    model: str
    """Name of the model."""
    dtype: str
    """Number type of its weights, such as ``float32``."""
    sites: tuple[str, ...]
    """Sites that were checked."""
    findings: tuple[Finding, ...]
    """One for each property, in the order of checking."""
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Site -> the layers that were checked, of sites that were narrowed; the others were in all layers that they have.
    """

    def __repr__(self) -> str:
        return f"CheckReport({self.headline})"

    @property
    def places(self) -> str:
        """The sites in words, with the layers of those that were narrowed."""
        narrowed = {site: f" in {', '.join(f'L{n}' for n in own)}" for site, own in self.layers.items()}
        return ("; " if narrowed else ", ").join(f"{site}{narrowed.get(site, '')}" for site in self.sites)

    @property
    def ok(self) -> bool:
        """Whether every measured property holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Findings that are broken properties."""
        return tuple(finding for finding in self.findings if not finding.ok)

    @property
    def reason(self) -> str:
        """Describe in one line what broke, where and by how much."""
        return f"{self.model} failed the self-check: {'; '.join(finding.words for finding in self.failures)}"

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        verdict = "all properties hold" if self.ok else f"{len(self.failures)} of {len(self.findings)} FAILED"
        return f"{self.model} ({self.dtype}): {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured."""
        return asdict(self) | {"ok": self.ok}

    @property
    def error(self) -> float:
        """The largest deviation of two runs that should be equal."""
        return max(
            (finding.error for finding in self.findings if finding.error is not None and not finding.estimate),
            default=0.0,
        )

    @property
    def lines(self) -> tuple[Finding, ...]:
        """One finding for each property: its failures, else the one with the largest error."""
        lines: list[Finding] = []
        for name in dict.fromkeys(finding.name for finding in self.findings):
            same = [finding for finding in self.findings if finding.name == name]
            lines += [f for f in same if not f.ok] or [max(same, key=lambda f: f.error or 0.0)]
        return tuple(lines)

    def rows(self) -> list[tuple[str, ...]]:
        """Property, verdict, largest error, what is allowed, where it is."""
        return [
            (
                finding.name,
                finding.verdict,
                "" if finding.error is None else f"{finding.error:.1e}",
                "" if finding.error is None else f"{finding.tolerance:.0e}",
                "; ".join(filter(None, (finding.where if finding.error or not finding.ok else "", finding.note))),
            )
            for finding in self.lines
        ]

    def _repr_html_(self) -> str:
        return escape.table(f"{self.headline}; sites: {self.places}", HEADS, self.rows(), left=(0, 1, 4))

    def __str__(self) -> str:
        rows = [HEADS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{self.headline}; sites: {self.places}", *lines])


HEADS = ("property", "verdict", "largest error", "allowed", "where")
