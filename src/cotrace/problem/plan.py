"""Plan: what a problem will work on, before any search: pairs, tokens, components and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotrace.problem.language import LanguageProblem


@dataclass(frozen=True)
class Plan:
    """What a problem will work on, before any search."""

    pairs: int
    heldout_pairs: int
    """Those that no search sees, whether or not they judge."""
    refused_pairs: int
    components: int
    tokens: int
    """Real tokens of one evaluation of one mask on all training pairs."""
    padded_tokens: int
    """The same with padding."""
    batches: int
    """Forward passes of one such evaluation."""
    packed: bool
    donor_bytes: int
    rows: int = 0
    """Rows of those forward passes together."""
    searched_pairs: int = 0
    """Training pairs that searches see: all, or as many as ``search_pairs`` allows."""
    judged_pairs: int = 0
    """Held-out pairs that judge: at most as many as ``judge_pairs`` allows."""
    memory_bytes: int = 0
    """Donor values and kept prefixes in memory."""
    disk_bytes: int = 0
    """Those in mapped files, for which the budget has no room."""
    recomputed_bytes: int = 0
    """Those that are computed for each forward pass anew, for which the disk has no room either."""


def plan_of(problem: LanguageProblem) -> Plan:
    """Count it all; nothing is run."""
    layouts = problem.training.scorer.all_layouts
    parts, stored = problem.counted_parts, problem.stored
    return Plan(
        pairs=problem.size,
        heldout_pairs=problem.heldout_size,
        judged_pairs=parts["heldout"].size if "heldout" in parts else 0,
        refused_pairs=len(problem.refused),
        components=len(problem.space),
        tokens=sum(layout.tokens for layout in layouts),
        padded_tokens=sum(layout.cells for layout in layouts),
        batches=len(layouts),
        packed=problem.packing.packed,
        donor_bytes=sum(part.scorer.donors.nbytes for part in parts.values()),
        rows=sum(layout.rows for layout in layouts),
        searched_pairs=problem.searched.size,
        memory_bytes=stored["memory"],
        disk_bytes=stored["disk"],
        recomputed_bytes=stored["recomputed"],
    )
