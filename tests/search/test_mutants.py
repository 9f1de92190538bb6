"""Small things that a search may get wrong without any frontier looking wrong: each was once broken on purpose."""

from __future__ import annotations

import pytest
import torch

from cotrace.errors import InputError
from cotrace.problem.protocol import key_of
from cotrace.search import Exhaustive, Greedy, Limits, Pursuit, solve
from cotrace.search.sets import Sample
from tests.problem.test_search_pairs import problem as on_some_pairs
from tests.problems import ClosedForm, modular


def test_the_limit_of_exhaustive_is_on_all_sets_together() -> None:
    """6 + 15 + 20 sets of up to three of six: none of the sizes alone is above 40."""
    one = ClosedForm(modular([1.0, 2, 3, 4, 5, 6]), 6)
    with pytest.raises(InputError, match=r"exhaustive: 41 sets of up to 3 of 6 .* set max_size=2"):
        Exhaustive(max_size=3, limit=40)(one)
    assert len(Exhaustive(max_size=3, limit=41)(one)) == 3


def test_a_limit_on_the_effect_is_in_the_direction_that_is_preferred() -> None:
    one = ClosedForm(modular([1.0, 2, 3, 4]), 4, direction="minimise")  # its effects are the formula's negative
    assert solve(Greedy(), one, limits=Limits(effect=-6.9)).sizes == [1, 2]
    assert solve(Greedy(), one, limits=Limits(effect=-100)).sizes == [1, 2, 3, 4]


def test_gradients_at_different_sets_are_taken_on_different_pairs() -> None:
    """The same pairs again for the same set, so that a resumed run agrees."""
    sample, sets = Sample(0.5, seed=3), torch.eye(12, dtype=torch.bool)
    drawn = [tuple(sample.of(key_of(row), 40) or ()) for row in sets]
    assert all(len(some) == 20 for some in drawn)
    assert len(set(drawn)) > 6
    assert drawn == [tuple(sample.of(key_of(row), 40) or ()) for row in sets]
    assert drawn != [tuple(Sample(0.5, seed=4).of(key_of(row), 40) or ()) for row in sets]


def test_sets_that_are_best_for_their_cost_are_evaluated_on_all_pairs_too() -> None:
    sites = {"sites": ["head_output", "mlp_output"]}
    weights = {"head_output": 1.0, "mlp_output": 0.1}
    some, whole = on_some_pairs(4, **sites), on_some_pairs(None, **sites)
    found = Pursuit(cost_weights=weights)(some)
    assert found.by_cost
    for selection in found.by_cost:
        assert selection.effect == pytest.approx(whole.value(list(map(str, selection.members))).item(), abs=1e-9)
