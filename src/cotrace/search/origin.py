"""Origin: which problem stored effects were measured on, as far as this process knows."""

from __future__ import annotations

from weakref import WeakKeyDictionary, ref

from cotrace.problem.protocol import Problem
from cotrace.results.effects import EffectTable

_MEASURED: WeakKeyDictionary[EffectTable, ref[Problem]] = WeakKeyDictionary()


def remember(problem: Problem, *tables: EffectTable | None) -> None:
    """These effects are of this problem. One that takes no weak references (``__slots__``) is not remembered."""
    try:
        known = ref(problem)
    except TypeError:
        return
    for table in tables:
        if table is not None:
            _MEASURED[table] = known


def is_of(table: EffectTable, problem: Problem) -> bool:
    """Whether the effects are known to be of this problem; those read from a file are not known to be of any."""
    known = _MEASURED.get(table)
    return known is not None and known() is problem
