"""The batch plan of a run's record in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PLACES = {
    "memory": "in memory",
    "disk": "on disk",
    "recomputed": "computed anew for each batch",
}
"""Where donor values are kept, as the plan counts their bytes."""
CHECKPOINTING = {
    "auto": "activations are computed again where memory runs out",
    "on": "activations are computed again",
    "off": "activations are kept",
}


def batches_words(plan: object) -> str:
    """The plan in one sentence; what a record does not say is left out."""
    return "; ".join(_parts(plan)) if isinstance(plan, Mapping) else ""


def _parts(plan: Mapping[str, Any]) -> Iterator[str]:
    if (tokens := _count(plan, "tokens")) is not None:
        yield f"{tokens} tokens in {_times(plan.get('batches'), 'batch', 'batches')}"
    if (most := _count(plan, "batch_tokens")) is not None:
        yield f"at most {most} tokens in one forward pass"
    if donors := [f"{_size(plan[f'{name}_bytes'])} {words}" for name, words in PLACES.items() if _held(plan, name)]:
        yield f"donor values: {', '.join(donors)}"
    if (words := CHECKPOINTING.get(str(plan.get("checkpointing")))) is not None:
        yield words
    if isinstance(events := plan.get("events"), list):
        yield _changes(events)


def _changes(events: list[Any]) -> str:
    if not events:
        return "memory never ran out"
    last = events[-1]
    now = f", at last to {_count(last, 'batch_tokens')} tokens" if isinstance(last, Mapping) else ""
    return f"memory ran out and batches were made smaller {_times(len(events), 'time', 'times')}{now}"


def _count(plan: Mapping[str, Any], name: str) -> str | None:
    value = plan.get(name)
    return f"{value:,}" if isinstance(value, int) else None


def _times(count: object, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if isinstance(count, int) else many


def _held(plan: Mapping[str, Any], name: str) -> bool:
    value = plan.get(f"{name}_bytes")
    return isinstance(value, int) and value > 0


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
