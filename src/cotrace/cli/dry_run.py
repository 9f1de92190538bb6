"""What a run would do and cost, before it does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cotrace.results import Table
from cotrace.runs.forecast import WITHIN, Forecast, forecast
from cotrace.runs.goal import problems_of
from cotrace.runs.prepare import Prepared
from cotrace.showing import duration

if TYPE_CHECKING:
    from cotrace.workers.costs import Costs

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def dry_run_tables(prepared: Prepared) -> Iterator[Table]:
    """The plan, and what each search and the evaluation would cost."""
    found = forecast_of(prepared)
    time = f"{_time(found.seconds)}, within {WITHIN:.0%}"
    yield Table("Plan", ("", ""), [*plan_rows(prepared), ("predicted time", time)], frozenset({0}))
    columns = ("search", "forward-equivalents", "at most", "time")
    yield Table("Predicted cost", columns, cost_rows(prepared, found), frozenset({0}))
    if prepared.config.workers:
        from cotrace.workers.costs import costs

        with_workers = costs(prepared.problem, found.seconds, prepared.config.workers)
        yield Table("With workers", ("", ""), worker_rows(prepared, with_workers), frozenset({0}))


def forecast_of(prepared: Prepared) -> Forecast:
    """The forecast of a run."""
    return forecast(
        prepared.problem,
        prepared.searches,
        prepared.config.evaluation,
        others=list(problems_of(prepared.other or prepared.problem))[1:],
    )


def plan_line(prepared: Prepared) -> str:
    """The plan in one line, for the beginning of a run."""
    plan, found = prepared.problem.plan, forecast_of(prepared)
    cost = sum(search.forward_equivalents for search in found.searches.values())
    passes = _count(plan.batches, "forward pass", "forward passes")
    passes += f" of {_count(plan.rows, 'row')} and {_count(plan.tokens, 'token')}"
    return (
        f"plan: {plan.searched_pairs:,} pairs, {passes} ({plan.padded_tokens:,} with padding); to search about "
        f"{cost:,.0f} forward-equivalents, to judge at most {found.evaluation:,.0f}; {_time(found.seconds)}, within "
        f"{WITHIN:.0%}; weights {size(weight_bytes(prepared))}, donor values {size(plan.donor_bytes)}"
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
        ("pairs that judge", f"{plan.judged_pairs:,}" + _of(plan.judged_pairs, plan.heldout_pairs)),
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


def worker_rows(prepared: Prepared, found: Costs) -> list[tuple[str, str]]:
    """Seconds, memory and object store with the workers that are asked for; none is begun for it."""
    gpus = prepared.config.worker_gpus
    whole = prepared.problem.plan.batches
    return [
        ("workers", f"{found.workers:,}" + (f" of {gpus:g} GPUs each" if gpus else "")),
        ("predicted time", f"{_time(found.seconds)}, where each is as fast as this process"),
        ("work that is left to the busiest", f"{found.share_s:.0%} ({whole:,} batches of one forward-equivalent)"),
        ("memory of each worker", f"{size(found.worker_bytes)}, and the activations of one forward pass"),
        ("object store", size(found.store_bytes)),
        ("sent and brought by one gradient", size(found.round_bytes)),
    ]


def _time(seconds: float) -> str:
    return f"about {duration(seconds)}"


def weight_bytes(prepared: Prepared) -> int:
    """Bytes of the model's parameters and buffers."""
    return int(prepared.model.module.get_memory_footprint())


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in UNITS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
