"""Frontiers as tidy tables for other tools: one row for each member, or for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cotrace.errors import InputError
from cotrace.results.effects import EffectTable
from cotrace.results.frontier import Frontier
from cotrace.results.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

MEMBER_COLUMNS = ("component", "site", "layer", "unit", "role")
EFFECT_COLUMNS = ("search", "k", "pair", "effect")


def member_rows(selection: Selection) -> list[dict[str, Any]]:
    """One dict for each member."""
    return [
        dict(zip(MEMBER_COLUMNS, (str(m), m.site.value, m.layer, m.unit, m.role), strict=True))
        for m in selection.members
    ]


def members_frame(frontier: Frontier) -> pd.DataFrame:
    """One row for each size and member: search, k, component, site, layer, unit (empty for a whole layer), role."""
    import pandas as pd

    rows = [{"search": frontier.search, "k": one.k} | row for one in frontier for row in member_rows(one)]
    frame = pd.DataFrame(rows, columns=["search", "k", *MEMBER_COLUMNS])
    return frame.astype({"unit": "Int64"})


def effects_frame(frontier: Frontier, ids: Sequence[str] | None = None, *, heldout: bool = False) -> pd.DataFrame:
    """One row for each size and pair: search, k, pair (its id, or its place), effect. Raises InputError."""
    import pandas as pd

    table = frontier.effects_heldout if heldout else frontier.effects
    part = "held-out" if heldout else "training"
    if table is None:
        raise InputError(
            f"{frontier.search} kept no effects of single {part} pairs: its metric has none, nothing was held out, or "
            "the frontier was read from a file; ask problem.effects(selection)"
        )
    count = table.effects.shape[1]
    if ids is not None and len(ids) != count:
        raise InputError(f"{len(ids)} ids for {count} {part} pairs; give problem.training.ids or problem.heldout.ids")
    pairs = list(range(count)) if ids is None else list(ids)
    found = [(one.k, effects) for one in frontier if (effects := _effects_of(frontier, one, table)) is not None]
    rows = [(frontier.search, k, pair, float(e)) for k, row in found for pair, e in zip(pairs, row, strict=True)]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _effects_of(frontier: Frontier, selection: Selection, table: EffectTable) -> Any:
    return table.find(np.packbits(frontier.space.indicator(selection.members)).tobytes())
