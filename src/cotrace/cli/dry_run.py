"""What a run would do and cost, before it does it."""

from __future__ import annotations

from collections.abc import Iterator

from cotrace.results import Table
from cotrace.runs.prepare import Prepared

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def dry_run_tables(prepared: Prepared) -> Iterator[Table]:
    """The plan, and what each search would cost."""
    yield Table("Plan", ("", ""), plan_rows(prepared), frozenset({0}))
    n = prepared.problem.plan.components
    rows = [(search.name, f"{search.predicted_cost(n):,.0f}") for search in prepared.searches]
    yield Table("Predicted cost", ("search", "forward-equivalents, at most"), rows, frozenset({0}))


def plan_rows(prepared: Prepared) -> list[tuple[str, str]]:
    """Pairs, tokens, components and memory."""
    plan = prepared.problem.plan
    padding = 1 - plan.tokens / plan.padded_tokens
    return [
        ("pairs searched", f"{plan.pairs:,}"),
        ("pairs held out", f"{plan.heldout_pairs:,}"),
        ("pairs refused", f"{plan.refused_pairs:,}"),
        ("components N", f"{plan.components:,}"),
        ("tokens of one forward-equivalent", f"{plan.tokens:,} ({padding:.0%} padding besides)"),
        ("forward passes of one forward-equivalent", f"{plan.batches:,}"),
        ("memory of the weights", size(weight_bytes(prepared))),
        ("memory of the donor values", size(plan.donor_bytes)),
    ]


def weight_bytes(prepared: Prepared) -> int:
    """Bytes of the model's parameters and buffers."""
    return int(prepared.model.module.get_memory_footprint())


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in UNITS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
