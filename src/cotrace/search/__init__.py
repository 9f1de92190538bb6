"""Searches: for every k the set of k components that moves the metric most. All see only a ``Problem``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotrace.errors import unknown
from cotrace.search.annealing import Annealing
from cotrace.search.archive import SearchState
from cotrace.search.attribution import Attribution, TopK
from cotrace.search.ensemble import Ensemble
from cotrace.search.exhaustive import Exhaustive
from cotrace.search.greedy import Floating, Greedy
from cotrace.search.hard_concrete import HardConcrete
from cotrace.search.matryoshka import Matryoshka
from cotrace.search.pgbct import PGBCT
from cotrace.search.pursuit import Pursuit
from cotrace.search.random import Random, Spread, spread
from cotrace.search.solve import Limits, Search, frontier, solve
from cotrace.validation import door

SEARCHES: Mapping[str, type[Any]] = {
    search.name: search
    for search in (
        Pursuit,
        PGBCT,
        Greedy,
        Floating,
        TopK,
        Attribution,
        Ensemble,
        Matryoshka,
        HardConcrete,
        Annealing,
        Random,
        Exhaustive,
    )
}
"""Name -> search."""

__all__ = [
    "PGBCT",
    "SEARCHES",
    "Annealing",
    "Attribution",
    "Ensemble",
    "Exhaustive",
    "Floating",
    "Greedy",
    "HardConcrete",
    "Limits",
    "Matryoshka",
    "Pursuit",
    "Random",
    "Search",
    "SearchState",
    "Spread",
    "TopK",
    "frontier",
    "named",
    "solve",
    "spread",
]


def named(name: str, **options: Any) -> Search:
    """The search of that name with these hyperparameters. Raises UnknownName, InputError for an option it has not.

    Args:
        name: Name of the search, such as ``pursuit``.
        options: Its hyperparameters.
    """
    if name not in SEARCHES:
        raise unknown("search", name, SEARCHES)
    fields = SEARCHES[name].__dataclass_fields__
    for option in options:
        if option not in fields:
            raise unknown(f"option of search {name}", option, fields)
    search: Search = SEARCHES[name](**options)
    return search


door("ct.search", globals(), (name for name in __all__ if name != "Search"))  # whose methods each search names itself
