"""What a run would do and cost, before it does it."""

from __future__ import annotations

from collections.abc import Iterator

from cotrace.results import Table
from cotrace.runs.forecast import Forecast, forecast
from cotrace.runs.prepare import Prepared
from cotrace.search.progress import duration

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
UNKNOWN = "not known"


def dry_run_tables(prepared: Prepared, found: Forecast | None = None) -> Iterator[Table]:
    """The plan, and what each search and the evaluation would cost."""
    found = found or forecast_of(prepared)
    yield Table("Plan", ("", ""), [*plan_rows(prepared), *_totals(found)], frozenset({0}))
    columns = ("search", "forward-equivalents", "at most", "time")
    yield Table("Predicted cost", columns, cost_rows(prepared, found), frozenset({0}))


def forecast_of(prepared: Prepared) -> Forecast:
    """The forecast of a run."""
    return forecast(prepared.problem, prepared.searches, prepared.config.evaluation)


def plan_line(prepared: Prepared, found: Forecast) -> str:
    """The plan in one line, for the beginning of a run."""
    plan, cost = prepared.problem.plan, sum(search.forward_equivalents for search in found.searches.values())
    passes = _count(plan.batches, "forward pass", "forward passes")
    passes += f" of {_count(plan.rows, 'row')} and {_count(plan.tokens, 'token')}"
    return (
        f"plan: {plan.searched_pairs:,} pairs, {passes} ({plan.padded_tokens:,} with padding); to search about "
        f"{cost:,.0f} forward-equivalents, to judge at most {found.evaluation:,.0f}; {_time(found.seconds)}; memory "
        f"{_size(found.peak_bytes)} at the peak"
    )


def _count(number: int, one: str, many: str = "") -> str:
    """A number with its word."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def plan_rows(prepared: Prepared) -> list[tuple[str, str]]:
    """Pairs, tokens, components and memory."""
    plan = prepared.problem.plan
    padding = 1 - plan.tokens / plan.padded_tokens
    return [
        ("pairs searched", f"{plan.searched_pairs:,}" + _of(plan.searched_pairs, plan.pairs)),
        ("pairs held out", f"{plan.heldout_pairs:,}"),
        ("pairs refused", f"{plan.refused_pairs:,}"),
        ("components N", f"{plan.components:,}"),
        ("tokens of one forward-equivalent", f"{plan.tokens:,} ({padding:.0%} padding besides)"),
        ("forward passes of one forward-equivalent", f"{plan.batches:,} of {plan.rows:,} rows together"),
        ("memory of the weights", size(weight_bytes(prepared))),
        ("memory of the donor values", size(plan.donor_bytes)),
        ("donor values and prefixes kept", _kept(prepared)),
    ]


def _of(some: int, whole: int) -> str:
    return f" of {whole:,}" if some != whole else ""


def _kept(prepared: Prepared) -> str:
    """Where what is computed once is kept."""
    plan = prepared.problem.plan
    parts = (("in memory", plan.memory_bytes), ("on disk", plan.disk_bytes), ("computed anew", plan.recomputed_bytes))
    return ", ".join(f"{size(count)} {where}" for where, count in parts if count) or "nothing"


def _totals(found: Forecast) -> list[tuple[str, str]]:
    return [
        ("predicted time", _time(found.seconds)),
        ("predicted peak of memory", _size(found.peak_bytes)),
    ]


def cost_rows(prepared: Prepared, found: Forecast) -> list[tuple[str, ...]]:
    """One row for each search, and one for judging the result."""
    rows: list[tuple[str, ...]] = [
        (name, f"{search.forward_equivalents:,.0f}", f"{search.at_most:,.0f}", _time(search.seconds))
        for name, search in found.searches.items()
    ]
    if found.evaluation:
        name = f"evaluation, {prepared.config.evaluation}"
        rows.append((name, f"{found.evaluation:,.0f}", f"{found.evaluation:,.0f}", _time(found.evaluation_s)))
    return rows


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"about {duration(seconds)}"


def _size(count: int | None) -> str:
    return UNKNOWN if count is None else size(count)


def weight_bytes(prepared: Prepared) -> int:
    """Bytes of the model's parameters and buffers."""
    return int(prepared.model.module.get_memory_footprint())


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in UNITS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
