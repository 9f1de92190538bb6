"""The other searches against brute force and closed forms, in both modes; the registry; errors."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotrace.errors import InputError, NonFiniteError, UnknownName
from cotrace.problem.protocol import Mode, chosen_of, key_of, keys_of
from cotrace.search import (
    SEARCHES,
    Annealing,
    Attribution,
    Ensemble,
    Exhaustive,
    Floating,
    Greedy,
    HardConcrete,
    Matryoshka,
    Random,
    TopK,
    named,
    spread,
)
from cotrace.search.hard_concrete import gates, open_gates
from cotrace.search.hyperparameters import geometric
from cotrace.search.matryoshka import soft_top
from tests.problems import ClosedForm, all_of, modular, pairwise, saturating
from tests.search.test_pursuit import brute

WEIGHTS = [0.3, -0.1, 0.8, 0.2, 0.5, -0.4, 0.15]
SORTED = np.cumsum(sorted(WEIGHTS, reverse=True))
LIGHT: dict[str, dict[str, Any]] = {
    "random": {"draws": 200},
    "pgbct": {"path": 12, "epochs": 6},
    "matryoshka": {"updates": 60},
}


@pytest.mark.parametrize("mode", ["swap", "keep"])
@pytest.mark.parametrize("direction", ["maximise", "minimise"])
@pytest.mark.parametrize("name", sorted(set(SEARCHES) - {"hardconcrete"}))
def test_additive_effects_are_solved_exactly(name: str, direction: Any, mode: Mode) -> None:
    problem = ClosedForm(modular(WEIGHTS), 7, mode=mode, direction=direction)
    search = named(name, **LIGHT.get(name, {}))
    frontier = search(problem)
    sign = 1 if direction == "maximise" else -1
    assert {3, 5} <= set(frontier.sizes)
    for selection in frontier:
        assert selection.effect == pytest.approx(sign * SORTED[selection.k - 1], rel=1e-5)
    assert frontier.full_effect == pytest.approx(sign * sum(WEIGHTS))
    assert frontier.forward_equivalents <= search.most_cost(7)


@pytest.mark.parametrize(
    "name", ["greedy", "topk", "attribution", "ensemble", "matryoshka", "exhaustive", "random", "annealing"]
)
def test_cost_is_what_the_problem_counted(name: str) -> None:
    problem = ClosedForm(pairwise(9, 1.0, 1), 9)
    problem.cost.charge(7)
    frontier = named(name)(problem)
    assert frontier.forward_equivalents == problem.cost.forward_equivalents - 7
    if name in ("greedy", "exhaustive", "topk", "attribution", "ensemble", "matryoshka"):
        assert frontier.forward_equivalents == named(name).predicted_cost(9)


def test_greedy_by_hand() -> None:
    """Greedy takes the best single one first, and so misses the better pair that does without it."""
    problem = ClosedForm(lambda s: 0.5 * s[:, 0] + all_of(s, [1, 2]) + 0.1 * s[:, 3], 4)
    frontier = Greedy()(problem)
    assert [s.effect for s in frontier] == pytest.approx([0.5, 0.6, 0.6, 1.6])
    assert frontier.at(2).components == ["L0.head0", "L0.head3"]


def test_floating_removes_what_came_too_early() -> None:
    def formula(s: torch.Tensor) -> torch.Tensor:
        return 1.0 * s[:, 0] * (1 - 0.9 * s[:, 1]) + 0.95 * s[:, 1] + 0.9 * s[:, 2] - 0.3 * s[:, 0] * s[:, 2]

    for seed in range(5):
        other = pairwise(12, 2.0, seed)
        greedy, floating = Greedy()(ClosedForm(other, 12)), Floating()(ClosedForm(other, 12))
        assert all((a.effect or 0) >= (b.effect or 0) for a, b in zip(floating, greedy, strict=True))
    floating, greedy = Floating()(ClosedForm(formula, 3)), Greedy()(ClosedForm(formula, 3))
    assert [s.effect for s in floating] == pytest.approx([brute(formula, 3, k) for k in (1, 2, 3)])
    assert greedy.at(2).effect == pytest.approx(1.6)


def test_floating_ends_above_greedy_where_members_must_leave() -> None:
    gains = [
        (Floating()(ClosedForm(saturating(12, seed), 12)), Greedy()(ClosedForm(saturating(12, seed), 12)))
        for seed in range(3)
    ]
    assert any((a.effect or 0) > (b.effect or 0) + 1e-9 for f, g in gains for a, b in zip(f, g, strict=True))


def test_exhaustive_is_the_optimum() -> None:
    formula = saturating(8, seed=4)
    frontier = Exhaustive()(ClosedForm(formula, 8))
    assert [s.effect for s in frontier] == pytest.approx([brute(formula, 8, k) for k in range(1, 9)], rel=1e-6)


def test_exhaustive_says_the_count() -> None:
    total = sum(comb(40, k) for k in range(1, 41))
    with pytest.raises(InputError, match=f"{total:,} sets of up to 40 of 40 components.*max_size=4.*use pursuit"):
        Exhaustive()(ClosedForm(modular([1.0] * 40), 40))


def test_attribution_points() -> None:
    """An AND has no slope with nothing chosen, an OR none with everything; between the two both have."""
    problem = ClosedForm(lambda s: s[:, 0] * s[:, 1] + (1 - (1 - s[:, 2]) * (1 - s[:, 3])) + 0.1 * s[:, 4], 6)
    slopes = {at: next(Attribution(at=at, points=50).steps(problem)).tensors["slopes"][0] for at in ("none", "all")}
    assert slopes["none"].tolist() == pytest.approx([0, 0, 1, 1, 0.1, 0], abs=1e-6)
    assert slopes["all"].tolist() == pytest.approx([1, 1, 0, 0, 0.1, 0], abs=1e-6)
    states = list(Attribution(points=50).steps(problem))
    assert states[-1].tensors["slopes"][0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.1, 0], abs=1e-6)


def test_dropped_layers_undo_cancellation() -> None:
    """Component 0 acts directly (+1) and through layer 1 (-1); with layer 1 at the donor's the direct part is left."""

    def formula(s: torch.Tensor) -> torch.Tensor:
        passed = 1 - s[:, 4:8].prod(1)
        return s[:, 0] - s[:, 0] * passed + 0.2 * s[:, 1] - 0.4 * s[:, 2] + 0.01 * s[:, 8]

    plain = next(Attribution(at="none").steps(ClosedForm(formula, 12)))
    assert plain.tensors["slopes"][0, 0] == 0
    frontier = Attribution(at="dropped")(ClosedForm(formula, 12))
    assert [frontier.at(k).components for k in (1, 2)] == [["L0.head0"], ["L0.head0", "L0.head1"]]
    assert "L0.head2" not in frontier.at(11).components
    assert frontier.forward_equivalents == 2 * 3 + 12


def test_bootstrap_prefers_what_helps_everywhere() -> None:
    """Component 0 is worth 1 on one example of ten, component 1 is worth 0.09 on each."""
    weights = torch.zeros(10, 3, dtype=torch.float64)
    weights[0, 0], weights[:, 1] = 1.0, 0.09
    problem = ClosedForm(lambda s: s @ weights.T, 3, size=10)
    assert Attribution(at="none")(problem).at(1).components == ["L0.head0"]
    boot = Attribution(at="none", bootstrap=500, folds=10, quantile=0.2)(problem)
    assert boot.at(1).components == ["L0.head1"]
    assert boot.forward_equivalents == pytest.approx(5)


def test_random_is_reproducible_and_leaves_global_state_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()  # noqa: NPY002
    problem = ClosedForm(pairwise(12, 1.0, 0), 12)
    for options in ({"seed": 3}, {"seed": 3, "nested": True}):
        first, second = Random(**options)(problem), Random(**options)(problem)  # type: ignore[arg-type]
        assert first.selections == second.selections
    assert Random(seed=4)(problem).selections != Random(seed=3)(problem).selections
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_random_spread() -> None:
    *_, last = Random(draws=400, max_size=3).steps(ClosedForm(modular(WEIGHTS), 7))
    for row in spread(last.archive):
        assert row.draws == comb(7, row.k)
        assert row.mean == pytest.approx(row.k * sum(WEIGHTS) / 7, rel=1e-5)
        assert row.best == pytest.approx(SORTED[row.k - 1], rel=1e-5)


def test_annealing_beats_greedy_on_the_pair() -> None:
    problem = ClosedForm(lambda s: 0.5 * s[:, 0] + all_of(s, [1, 2]) + 0.1 * s[:, 3], 6)
    assert Annealing(proposals=100)(problem).at(2).effect == pytest.approx(1.0)


def test_hard_concrete_gates() -> None:
    """The share of open gates is the published closed form."""
    a = torch.tensor([-2.0, 0.0, 1.5])
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(20_000, 3, generator=draw).clamp(1e-6, 1 - 1e-6)
    open_share = torch.stack([gates(a, row) > 0 for row in noise]).float().mean(0)
    assert float(open_share.sum()) == pytest.approx(float(open_gates(a)), abs=0.02)


def test_hard_concrete_finds_the_planted_set() -> None:
    problem = ClosedForm(lambda s: all_of(s, [1, 4, 6]) + 0.01 * s.sum(1), 9)
    frontier = HardConcrete(epochs=40, batch_size=8)(problem)
    assert frontier.at(3).components == ["L0.head1", "L1.head0", "L1.head2"]


@pytest.mark.parametrize("k", [0.5, 1.0, 2.7, 4.0, 5.5])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_a_soft_top_k_holds_k_and_its_gradient_is_that_of_finite_differences(k: float, temperature: float) -> None:
    scores = torch.tensor([0.4, -1.0, 0.3, 2.0, 0.0, 0.35], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.7], dtype=torch.float64)
    assert float(soft_top(scores, k, temperature).sum()) == pytest.approx(k, abs=1e-9)
    order = torch.argsort(soft_top(scores, k, temperature), descending=True)
    assert order.tolist() == torch.argsort(scores, descending=True).tolist()
    leaf = scores.clone().requires_grad_()
    (slope,) = torch.autograd.grad((soft_top(leaf, k, temperature) * weights).sum(), leaf)
    steps = 1e-6 * torch.eye(6, dtype=torch.float64)
    ends = [[float((soft_top(scores + s * e, k, temperature) * weights).sum()) for e in steps] for s in (1, -1)]
    finite = (np.array(ends[0]) - np.array(ends[1])) / 2e-6
    assert slope.tolist() == pytest.approx(finite.tolist(), abs=1e-5 * max(1.0, np.abs(finite).max()))
    assert float(slope.sum()) == pytest.approx(0.0, abs=1e-9), "scores that rise together change no order"


def test_a_cold_soft_top_k_is_the_hard_one() -> None:
    scores = torch.tensor([0.4, -1.0, 0.3, 2.0, 0.0])
    assert soft_top(scores, 3, 0.001).tolist() == pytest.approx([1, 0, 1, 1, 0], abs=1e-6)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_matryoshka_sees_what_its_first_gradient_does_not(mode: Mode) -> None:
    """With nothing chosen an AND has no slope; soft sets of random sizes have."""
    problem = ClosedForm(lambda s: all_of(s, [1, 4]) + 0.05 * s[:, 0] + 0.01 * s.sum(1), 6, mode=mode)
    assert Attribution(at="none")(problem).at(2).components == ["L0.head0", "L0.head1"]
    for options in ({}, {"budgets": "log"}, {"final_temperature": 0.1}, {"start": "integrated"}):
        frontier = Matryoshka(updates=100, **options)(problem)  # type: ignore[arg-type]
        assert frontier.at(2).components == ["L0.head1", "L1.head0"], options


def test_matryoshka_by_hand() -> None:
    """One step of Adam from nothing moves every score by lr, in the direction of its part against the mean."""
    first = next(Matryoshka(updates=1, lr=0.3).steps(ClosedForm(modular([3.0, 1.0, 2.5, -1.0]), 4)))
    assert first.z.tolist() == pytest.approx([0.3, -0.3, 0.3, -0.3], abs=1e-6)  # of a mean of 1.375
    assert first.spent == 2


def test_matryoshka_cools_and_draws_within_its_sizes() -> None:
    search = Matryoshka(updates=5, temperature=1.0, final_temperature=0.01)
    assert [search._temperature(i) for i in range(5)] == pytest.approx([1.0, 10**-0.5, 0.1, 10**-1.5, 0.01])
    for budgets, middle in (("uniform", (1 + 64) / 2), ("log", 8.0)):
        drawn = np.array([Matryoshka(budgets=budgets)._budget(64, step) for step in range(2000)])
        assert drawn.min() >= 1
        assert drawn.max() <= 64
        assert np.median(drawn) == pytest.approx(middle, rel=0.1)


def test_matryoshka_draws_from_its_seed() -> None:
    rows = [
        list(Matryoshka(updates=9, seed=seed).steps(ClosedForm(pairwise(9, 1.0, 2), 9)))[-1].z for seed in (0, 0, 1)
    ]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_ensembles_combine_scores() -> None:
    """An AND has a slope at all only, an OR at none only: what all methods agree on is what is additive."""
    problem = ClosedForm(lambda s: s[:, 0] * s[:, 1] + (1 - (1 - s[:, 2]) * (1 - s[:, 3])) + 0.45 * s[:, 4], 6)
    of = ("none", "all")
    states = list(Ensemble(of=of).steps(problem))
    expected = torch.tensor([[0, 0, 1, 1, 0.45, 0], [1, 1, 0, 0, 0.45, 0]])
    assert torch.allclose(states[-1].tensors["scores"], expected, atol=1e-6)
    assert Ensemble(of=of, combine="min")(problem).at(1).components == ["L1.head0"]
    assert Ensemble(of=of, combine="max")(problem).at(4).components == ["L0.head0", "L0.head1", "L0.head2", "L0.head3"]
    assert Ensemble(of=of, combine="mean")(problem).at(2).components == ["L0.head0", "L0.head1"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Matryoshka(updates=0), "matryoshka: updates is 0; give a number of at least 1"),
        (lambda: Matryoshka(temperature=0.0), "matryoshka: temperature is 0.0; give a number above 0"),
        (lambda: Matryoshka(final_temperature=-1.0), "final_temperature is -1.0; give a number above 0"),
        (lambda: Matryoshka(budgets="unifrm"), "did you mean 'uniform'"),
        (lambda: Matryoshka(start="input"), "did you mean 'inputs'"),
        (lambda: Ensemble(of=("none",)), "give at least two different methods"),
        (lambda: Ensemble(of=("none", "dropped")), "unknown method of an ensemble 'dropped'"),
        (lambda: Ensemble(combine="median"), "unknown combination of scores 'median'"),
        (lambda: Attribution(at="inputs")(ClosedForm(modular(WEIGHTS), 7)), "has no inputs to interpolate"),
    ],
)
def test_bad_settings_of_learned_and_combined_scores(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_ties_go_to_the_lowest_indices() -> None:
    for name in ("greedy", "exhaustive", "topk", "pursuit"):
        frontier = named(name)(ClosedForm(modular([1.0] * 6), 6))
        assert frontier.at(2).components == ["L0.head0", "L0.head1"], name


def test_heldout_effects() -> None:
    problem = ClosedForm(modular(WEIGHTS), 7, heldout=ClosedForm(modular([2 * w for w in WEIGHTS]), 7))
    frontier = TopK()(problem)
    assert frontier.full_effect_heldout == pytest.approx(2 * sum(WEIGHTS))
    assert [s.effect_heldout for s in frontier] == pytest.approx([2 * (s.effect or 0) for s in frontier])


def test_non_finite_effects_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="the effect of 1 components is nan"):
        Greedy()(ClosedForm(lambda s: s.sum(1) * float("nan"), 3))
    with pytest.raises(NonFiniteError, match=r"the gradient at L0\.head0 is not finite"):
        Attribution()(ClosedForm(lambda s: s.sum(1) * float("inf"), 3))


def test_registry() -> None:
    assert named("greedy", max_size=3) == Greedy(max_size=3)
    with pytest.raises(UnknownName, match="did you mean 'greedy'"):
        named("gredy")
    with pytest.raises(InputError, match="unknown option of search greedy 'sizes': did you mean 'max_size'"):
        named("greedy", sizes=3)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_keys_are_inverse_and_ordered(bits: list[bool]) -> None:
    chosen = torch.tensor(bits)
    assert torch.equal(chosen_of(key_of(chosen), len(bits)), chosen)
    assert keys_of(chosen[None]) == [key_of(chosen)]


@given(st.integers(1, 3000), st.integers(2, 80))
def test_size_grids(most: int, steps: int) -> None:
    grid = geometric(most, steps)
    assert grid == sorted(set(grid))
    assert grid[0] == 1
    assert grid[-1] == most
    assert len(grid) <= steps


def test_archive_snapshots_do_not_move() -> None:
    states = list(Greedy().steps(ClosedForm(pairwise(6, 1.0, 0), 6)))
    assert [len(state.archive) for state in states] == [6, 11, 15, 18, 20, 21]
    assert states[0].archive.score(key_of(torch.tensor([True] * 6))) is None
    assert states[-1].archive.score(key_of(torch.tensor([True] * 6))) is not None


@pytest.mark.parametrize("n", [64, 36_864])
def test_exhaustive_refuses_what_no_float_counts_before_it_is_predicted(n: int) -> None:
    with pytest.raises(InputError, match=f"more than 1,000,000,000,000,000 sets of up to {n} of {n} comp.*use pursuit"):
        Exhaustive().predicted_cost(n)
    assert Exhaustive(max_size=2).predicted_cost(600) == 600 + 600 * 599 / 2
