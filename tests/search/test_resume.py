"""Every search goes on from every state it yields, stored and read back, to the same bytes."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load, save

from cotrace.search import SEARCHES, SearchState, frontier, named
from tests.problems import ClosedForm, saturating

OPTIONS = {"pgbct": {"l1": (0.01, 0.1), "batch_size": 3}, "annealing": {"proposals": 6}, "matryoshka": {"updates": 12}}


def stored(state: SearchState) -> SearchState:
    """The state through JSON and safetensors, as a run directory keeps it."""
    data, tensors = state.to_arrays()
    return SearchState.from_arrays(json.loads(json.dumps(data)), load(save(tensors)))


def problem() -> ClosedForm:
    return ClosedForm(saturating(8, seed=3), 8)


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_resume_gives_the_same_frontier(name: str) -> None:
    search = named(name, **OPTIONS.get(name, {}))
    states = list(search.steps(problem()))
    whole = frontier(problem(), states[-1]).to_dict()
    assert [state.step for state in states] == sorted({state.step for state in states})
    for state in states[:: max(1, len(states) // 12)]:
        again = problem()
        rest = [stored(state), *search.steps(again, stored(state))]
        assert frontier(again, rest[-1]).to_dict() == whole
        assert len(rest) == len(states) - states.index(state)
