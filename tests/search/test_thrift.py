"""Cost weights for each site: what is best for its cost, beside what is best for its size."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
import torch

from cotrace.components import Component, ComponentSpace, Site
from cotrace.errors import InputError, UnknownName
from cotrace.results import Frontier
from cotrace.search import Greedy, Pursuit
from cotrace.search._cost_weights import filled, settled, weight_vector
from tests.problems import ClosedForm, modular

HEADS, NEURONS = 4, 16
SPACE = ComponentSpace(
    (
        *(Component(Site.HEAD_OUTPUT, 0, i) for i in range(HEADS)),
        *(Component(Site.MLP_NEURON, 0, i) for i in range(NEURONS)),
    )
)
WORTH = [1.0, 0.9, 0.3, 0.2, *(0.3 - 0.01 * i for i in range(NEURONS))]


def problem() -> ClosedForm:
    one = ClosedForm(modular(WORTH), HEADS + NEURONS)
    one.__dict__["space"] = SPACE
    return one


def best_by_hand(cost: float, weight: float) -> float:
    """The knapsack by brute force: so many of the best heads, so many of the best neurons."""
    return max(
        sum(WORTH[:h]) + sum(WORTH[HEADS : HEADS + m])
        for h, m in product(range(HEADS + 1), range(NEURONS + 1))
        if h + m * weight <= cost + 1e-9
    )


def test_balanced_weights_make_each_site_cost_the_same() -> None:
    weights = settled("pursuit", SPACE, "balanced")
    assert weights == {"head_output": 1.0, "mlp_neuron": 0.25}
    costs = weight_vector(SPACE, weights)
    assert float(costs[:HEADS].sum()) == float(costs[HEADS:].sum()) == 4


def test_best_for_a_cost() -> None:
    frontier = Pursuit(cost_weights="balanced")(problem())
    assert frontier.at(3).components == ["L0.head0", "L0.head1", "L0.head2"]
    assert frontier.weighted_cost(3) == 3.0
    # Four neurons cost what one head does and are together worth more than any head.
    assert frontier.best(cost=1.0).components == [f"L0.neuron{i}" for i in range(4)]
    for cost in (0.5, 1.0, 2.0, 3.0, 5.0, 8.0):
        best = frontier.best(cost=cost)
        assert best.weighted_cost(frontier.cost_weights) <= cost + 1e-9
        assert best.effect == pytest.approx(best_by_hand(cost, 0.25), rel=0.12)
    effects = [s.effect or 0 for s in frontier.by_cost]
    assert effects == sorted(effects)
    assert frontier.forward_equivalents <= Pursuit(cost_weights="balanced").most_cost(20)


def test_without_weights_the_cost_is_the_size() -> None:
    frontier = Greedy()(problem())
    assert frontier.weighted_cost(5) == 5
    assert frontier.best(cost=5).k == 5
    assert frontier.by_cost == ()


def test_costs_are_stored_with_the_frontier() -> None:
    frontier = Pursuit(cost_weights={"mlp_neuron": 0.1})(problem())
    again = Frontier.from_dict(json.loads(json.dumps(frontier.to_dict())))
    assert again.best(cost=0.4) == frontier.best(cost=0.4)
    assert again.cost_weights == {"head_output": 1.0, "mlp_neuron": 0.1}


def test_filled_by_hand() -> None:
    costs, worth = torch.tensor([1.0, 0.25, 0.25, 0.25]), torch.tensor([3.0, 2.0, -1.0, 1.0])
    nothing = torch.zeros(4, dtype=torch.bool)
    assert filled(nothing, worth, costs, 0.6, 4).tolist() == [False, True, False, True]
    assert filled(nothing, worth, costs, 9.0, 1).tolist() == [True, False, False, False]


def test_weights_as_text_are_those_of_a_mapping() -> None:
    found = Pursuit(cost_weights="mlp_neuron=0.1, head_output=2")(problem())
    other = Pursuit(cost_weights={"mlp_neuron": 0.1, "head_output": 2})(problem())
    assert replace(found, elapsed_s=0.0) == replace(other, elapsed_s=0.0)
    assert found.cost_weights == {"head_output": 2.0, "mlp_neuron": 0.1}
    for text in ("mlp_neuron=cheap", "mlp_neuron", "=", "mlp_neuron=nan"):
        with pytest.raises(InputError, match="cost weight"):
            Pursuit(cost_weights=text)
    with pytest.raises(UnknownName, match="did you mean"):
        Pursuit(cost_weights="mlp_neurn=1")


def test_a_weight_of_features_is_of_those_of_every_place() -> None:
    names = ["L0.attn.feature1", "L0.mlp.feature2", "L0.mlp.error", "L1.head0"]
    space = ComponentSpace.parse(names)
    found = settled("pursuit", space, "feature=0.1,mlp_feature=0.3,error=5")
    assert found == {"attention_feature": 0.1, "mlp_feature": 0.3, "mlp_error": 5.0, "head_output": 1.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"mlp_neuron": 0.0}, "the cost weight of mlp_neuron is 0.0; give a finite number above 0"),
        ({"mlp_output": 1.0}, "cost weight for mlp_output, but the space has 4 head_output"),
        ("cheap", "cost weights 'cheap' are neither a cost for each site nor 'balanced'"),
    ],
)
def test_bad_weights(weights: dict[str, float] | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pursuit(cost_weights=weights)(problem())


def test_unknown_site() -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        Pursuit(cost_weights={"head_outputs": 1.0})(problem())


def test_no_selection_for_so_little() -> None:
    with pytest.raises(InputError, match=r"no selection with a weighted cost of at most 0\.01"):
        Pursuit(cost_weights="balanced")(problem()).best(cost=0.01)
