"""Transfer: a set's effect on another problem against what closed forms and plain evaluations give; refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.results import Selection
from cotrace.search import Exhaustive, Greedy
from tests.problems import ClosedForm, modular

HERE = [3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
THERE = [2.0, 0.0, 1.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
UNSEEN = [2.0, 0.5, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def formula(weights: list[float], size: int = 12) -> Any:
    """Additive, each example somewhat more or less than the mean."""
    share = torch.linspace(0.8, 1.2, size, dtype=torch.float64)
    plain = modular(weights)
    return lambda s: plain(s)[:, None] * share


def target(**options: Any) -> ClosedForm:
    unseen = ClosedForm(formula(UNSEEN), 12, size=12, task="there", **options)
    return ClosedForm(formula(THERE), 12, size=12, heldout=unseen, task="there", **options)


@pytest.mark.parametrize("direction", ["maximise", "minimise"])
def test_figures_are_those_of_the_formula(direction: Any) -> None:
    sign = 1 if direction == "maximise" else -1
    source = Exhaustive(max_size=3)(ClosedForm(formula(HERE), 12, size=12, direction=direction, task="here"))
    found = ct.transfer(source, target(direction=direction), k=2, controls=400)
    assert found.components == ("L0.head0", "L0.head1")
    assert found.effect == pytest.approx(sign * 2.5)
    assert (found.own_components, found.own_effect) == (("L0.head3", "L1.head0"), pytest.approx(sign * 6.0))
    assert found.full_effect == pytest.approx(sign * sum(UNSEEN))
    assert found.ratio == pytest.approx(2.5 / 6)
    assert (found.overlap, found.judged_on, found.pairs) == (0.0, "held-out", 12)
    low, high = sorted(sign * end for end in found.interval or ())
    assert low < 2.5 < high
    assert found.difference is not None
    assert found.difference[1] < 0
    # Of the 66 sets of two on the held-out weights, drawn as often as each other:
    sums = np.array([UNSEEN[i] + UNSEEN[j] for i in range(12) for j in range(i)])
    assert found.composition == "site"  # two of the first layer's four leave six sets only
    assert sign * found.control_mean == pytest.approx(sums.mean(), abs=0.3)
    assert sign * found.control_best == pytest.approx(6.0)
    assert found.p_value == pytest.approx((sums >= 2.5).mean(), abs=0.06)
    assert "does not show that the set carries over" in found.verdict
    json.dumps(found.to_dict())


def test_a_set_that_carries_over_is_said_to() -> None:
    found = ct.transfer(Selection.parse(["L0.head3", "L1.head0"]), target(), controls=200)
    assert (found.ratio, found.overlap, found.source) == (1.0, 1.0, "")
    assert found.verdict.endswith("The set carries over.")
    assert "the target's own" in str(found)


def test_without_held_out_pairs_the_figures_are_of_all() -> None:
    found = ct.transfer(Selection.parse(["L0.head0"]), ClosedForm(formula(THERE), 12, size=12), search=Greedy())
    assert (found.judged_on, found.effect, found.own_effect) == ("training", pytest.approx(2.0), pytest.approx(4.0))


def test_refusals() -> None:
    frontier = Greedy(max_size=3)(ClosedForm(formula(HERE), 12, size=12))
    with pytest.raises(InputError, match=r"L9\.head1 is not in both spaces: .*target's 12 head_output"):
        ct.transfer(Selection.parse(["L9.head1"]), target())
    with pytest.raises(InputError, match="the set is of mode 'swap', the target of 'keep'"):
        ct.transfer(frontier, target(mode="keep"))
    with pytest.raises(InputError, match="exactly 7"):
        ct.transfer(frontier, target(), k=7)
    with pytest.raises(InputError, match="k is 2 and the selection has 1"):
        ct.transfer(frontier.at(1), target(), k=2)
    with pytest.raises(InputError, match="controls is 0; give at least 1"):
        ct.transfer(frontier, target(), controls=0)
