"""Weighted sums and constraints on closed-form problems, against brute force over all sets."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import cotrace as ct
from cotrace.errors import DegenerateError, InputError
from cotrace.evaluation import evaluate
from cotrace.problem.goals import Constrained, Constraint
from cotrace.problem.protocol import Problem
from cotrace.problem.subproblem import Subproblem
from cotrace.problem.weighted import WeightedSum
from cotrace.results import Frontier
from cotrace.search import (
    PGBCT,
    Annealing,
    Attribution,
    Ensemble,
    Exhaustive,
    Floating,
    Greedy,
    Matryoshka,
    Pursuit,
    Random,
    TopK,
)
from tests.problems import ClosedForm, modular, pairwise

N = 10
GAIN = [3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.8, 0.5, 0.3, 0.1]
HARM = [2.0, 0.1, 1.5, 0.2, 0.05, 1.0, 0.0, 0.1, -0.3, -0.4]


def a(**options: Any) -> ClosedForm:
    return ClosedForm(modular(GAIN), N, task="a", **options)


def b(**options: Any) -> ClosedForm:
    return ClosedForm(modular(HARM), N, task="b", **options)


def every_set(k: int) -> Tensor:
    rows = torch.zeros(0, N)
    for chosen in combinations(range(N), k):
        row = torch.zeros(1, N)
        row[0, list(chosen)] = 1
        rows = torch.cat([rows, row])
    return rows


def best_within(k: int, low: float, high: float) -> float | None:
    sets = every_set(k).double()
    side = sets @ torch.tensor(HARM, dtype=torch.float64)
    values = sets @ torch.tensor(GAIN, dtype=torch.float64)
    kept = values[(side <= high + 1e-12) & (side >= low - 1e-12)]
    return kept.max().item() if len(kept) else None


SEARCHES = [
    Pursuit(),
    Greedy(),
    Floating(),
    TopK(),
    Attribution(),
    Random(),
    Annealing(),
    Matryoshka(updates=30),
    Ensemble(),
    PGBCT(path=6, epochs=2),
    Exhaustive(),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_every_search_reports_feasible_sets_only(search: Any) -> None:
    problem = Constrained(a(), [Constraint(b(), 0.5, margin=0.1)])
    frontier = search(problem)
    assert len(frontier)
    for selection in frontier:
        chosen = torch.zeros(N).index_fill(
            0, torch.tensor([problem.space.indices([m])[0] for m in selection.members]), 1
        )
        side = float(chosen.double() @ torch.tensor(HARM, dtype=torch.float64))
        assert abs(side) <= 0.4 + 1e-6
        assert selection.side == pytest.approx((side,), abs=1e-6)
        assert selection.effect == pytest.approx(
            float(chosen.double() @ torch.tensor(GAIN, dtype=torch.float64)), abs=1e-5
        )
    assert not set(frontier.infeasible_sizes) & set(frontier.sizes)


def test_exhaustive_finds_the_brute_force_optimum_of_every_size_and_names_sizes_without_one() -> None:
    frontier = Exhaustive()(Constrained(a(), [Constraint(b(), 0.5, margin=0.0)]))
    for k in range(1, N + 1):
        expected = best_within(k, -0.5, 0.5)
        if expected is None:
            assert k in frontier.infeasible_sizes
            with pytest.raises(InputError, match=f"no set of exactly {k} that keeps the constraints"):
                frontier.at(k)
        else:
            assert frontier.at(k).effect == pytest.approx(expected, abs=1e-5)
    assert frontier.infeasible_sizes
    assert "no set found that keeps the constraints at k =" in frontier.table().title


@pytest.mark.parametrize("search", [Pursuit(), Greedy()], ids=lambda search: search.name)
def test_guided_searches_come_within_a_tenth_of_the_constrained_optimum(search: Any) -> None:
    frontier = search(Constrained(a(), [Constraint(b(), 0.5, margin=0.0)]))
    optimum = max(value for k in range(1, N + 1) if (value := best_within(k, -0.5, 0.5)) is not None)
    assert frontier.best().effect >= 0.9 * optimum


@pytest.mark.parametrize(("sides", "low", "high"), [("above", -9.0, 0.2), ("below", -0.2, 99.0)])
def test_one_sided_bounds(sides: Any, low: float, high: float) -> None:
    frontier = Exhaustive()(Constrained(a(), [Constraint(b(), 0.2, sides=sides, margin=0.0)]))
    for k in (2, 5, N):
        assert (None if k in frontier.infeasible_sizes else frontier.at(k).effect) == pytest.approx(
            best_within(k, low, high)
        )


def test_minimising_and_keep_mode_honour_constraints_too() -> None:
    down = Exhaustive()(Constrained(a(direction="minimise"), [Constraint(b(), 0.5, margin=0.0)]))
    up = Exhaustive()(Constrained(a(), [Constraint(b(), 0.5, margin=0.0)]))
    assert [s.effect for s in down] == pytest.approx([-(s.effect or 0) for s in up], abs=1e-5)
    kept = Exhaustive()(Constrained(a(mode="keep"), [Constraint(b(), 0.5, margin=0.0)]))
    for selection in kept:  # in keep mode the mask is 1 on what is not chosen, and that is what harms
        left = torch.ones(N).index_fill(0, torch.tensor(kept.space.indices(selection.members)), 0)
        assert abs(float(left @ torch.tensor(HARM))) <= 0.5 + 1e-5


def test_gradient_is_that_of_a_less_the_price_times_that_of_the_violation() -> None:
    formula_b = pairwise(N, 0.5, seed=2)
    first, second = ClosedForm(pairwise(N, 0.5, seed=1), N), ClosedForm(formula_b, N)
    problem = Constrained(first, [Constraint(second, 0.1, margin=0.02)])
    price = problem.bounds[0].price
    z = torch.linspace(0.2, 0.9, N, dtype=torch.float64)

    def penalised(at: Tensor) -> float:
        return float(first.value(at) - price * max(0.0, abs(float(second.value(at))) - 0.08))

    gradient = problem.gradient(z)
    for i in range(N):
        e = torch.zeros(N, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-6)
        assert gradient[i].item() == pytest.approx((penalised(z + e) - penalised(z - e)) / 2e-6, rel=1e-5, abs=1e-6)
    inside = torch.zeros(N, dtype=torch.float64)
    assert torch.allclose(problem.gradient(inside), first.gradient(inside))


def test_costs_of_side_problems_count() -> None:
    problem = Constrained(a(), [Constraint(b(), 0.5)])
    before = problem.cost.forward_equivalents
    problem.value(torch.zeros(3, N))
    problem.side_values(torch.zeros(3, N))
    assert problem.cost.forward_equivalents - before == 6


def test_heldout_side_values_and_violations() -> None:
    unseen = ClosedForm(modular([2 * harm for harm in HARM]), N)
    problem = Constrained(a(heldout=a()), [Constraint(b(heldout=unseen), 0.5, margin=0.0)])
    frontier = Exhaustive()(problem)
    for selection in frontier:
        assert selection.side is not None
        assert selection.side_heldout == pytest.approx((2 * selection.side[0],), abs=1e-5)
        assert frontier.violations(selection.k) == pytest.approx((max(0, 2 * abs(selection.side[0]) - 0.5),), abs=1e-5)
    assert Frontier.from_dict(frontier.to_dict()).to_dict() == frontier.to_dict()
    assert any(" !" in cell for row in frontier.table().rows for cell in row)


def test_no_feasible_set_at_all_is_said() -> None:
    harmful = ClosedForm(modular([1.0] * N), N, task="b")
    with pytest.raises(DegenerateError, match="no set of any size that keeps the constraints"):
        Greedy()(Constrained(a(), [Constraint(harmful, 0.5)]))


def test_resumed_searches_keep_what_is_feasible() -> None:
    whole = Greedy()(Constrained(a(), [Constraint(b(), 0.5)]))
    states = list(Greedy().steps(Constrained(a(), [Constraint(b(), 0.5)])))
    half = type(states[4]).from_arrays(*states[4].to_arrays())
    from cotrace.search import solve

    resumed = solve(Greedy(), Constrained(a(), [Constraint(b(), 0.5)]), state=half)
    assert [s.to_dict() for s in resumed] == [s.to_dict() for s in whole]
    assert resumed.infeasible_sizes == whole.infeasible_sizes


def sums(first: Problem, second: Problem) -> WeightedSum:
    return WeightedSum([(0.7, first), (0.2, second)])


def test_a_weighted_sum_adds_values_in_each_problems_direction() -> None:
    second = ClosedForm(pairwise(N, 0.5, seed=4, size=5), N, size=5, direction="minimise")
    first = ClosedForm(pairwise(N, 0.5, seed=3), N)
    total = sums(first, second)
    masks = torch.rand(3, N, dtype=torch.float64)
    assert torch.allclose(total.value(masks), 0.7 * first.value(masks) - 0.2 * second.value(masks))
    assert torch.allclose(total.effects(masks).mean(-1), total.value(masks))
    assert total.effects(masks).shape == (3, 13)
    assert torch.allclose(total.effects(masks, [12, 0, 9]), total.effects(masks)[:, [12, 0, 9]])


@pytest.mark.parametrize("examples", [None, [12, 0, 9, 3]])
@pytest.mark.parametrize("objective", [None, torch.sigmoid])
def test_gradient_of_a_weighted_sum_matches_finite_differences_of_its_effects(examples: Any, objective: Any) -> None:
    second = ClosedForm(pairwise(N, 0.5, seed=4, size=5), N, size=5, direction="minimise")
    total = sums(ClosedForm(pairwise(N, 0.5, seed=3), N), second)
    z = torch.linspace(0.2, 0.8, N, dtype=torch.float64)

    def loss(at: Tensor) -> float:
        effects = total.effects(at, examples)
        return float((effects if objective is None else objective(effects)).mean())

    gradient = total.gradient(z, objective, examples)
    for i in range(N):
        e = torch.zeros(N, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-6)
        assert gradient[i].item() == pytest.approx((loss(z + e) - loss(z - e)) / 2e-6, rel=1e-5, abs=1e-7)


def test_searches_solve_weighted_sums() -> None:
    weights = [0.7 * gain + 0.2 * harm for gain, harm in zip(GAIN, HARM, strict=True)]
    frontier = Pursuit()(sums(a(), b()))
    for k in range(1, N + 1):
        assert frontier.at(k).effect == pytest.approx(sum(sorted(weights, reverse=True)[:k]), abs=1e-5)
    assert PGBCT(path=4, epochs=1)(sums(a(), b()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constraint(b(), 0), "eps is 0"),
        (lambda: Constraint(b(), 0.1, margin=0.1), "the margin 0.1 must be at least 0 and below eps"),
        (lambda: Constraint(b(), 0.1, sides="up"), "choose both, above or below"),
        (lambda: Constraint(b(mode="keep"), 0.1), "build it with mode='swap'"),
        (lambda: Constrained(a(), []), "at least one constraint"),
        (lambda: Constrained(a(heldout=a()), [Constraint(b(), 0.1)]), "it holds nothing out"),
        (lambda: Constrained(a(), [Constraint(ClosedForm(modular([1.0]), 1), 1)]), "give both problems the same sites"),
        (lambda: WeightedSum([(1, a())]), "at least two problems"),
        (lambda: WeightedSum([(1, a()), (0, b())]), "give finite numbers above 0"),
        (lambda: WeightedSum([(1, a()), (1, b(mode="keep"))]), "use one mode"),
    ],
)
def test_goals_that_make_no_sense_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


class Weighed(ClosedForm):
    """Pairs that count differently, in groups, with an audit part."""

    audit: Any = None

    @property
    def weights(self) -> Tensor:
        return torch.arange(1.0, self.size + 1).double()

    @property
    def clusters(self) -> list[str]:
        return [f"g{i // 2}" for i in range(self.size)]

    def value_and_effects(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        effects = self.effects(masks)
        return (effects * self.weights).sum(-1) / self.weights.sum(), effects

    def value(self, masks: Tensor) -> Tensor:
        return self.value_and_effects(masks)[0]


def weighed(size: int = 24, seed: int = 0, **options: Any) -> Weighed:
    return Weighed(pairwise(N, 0.3, seed, size), N, size, task="weighed", **options)


def bounded(problem: ClosedForm, **options: Any) -> Constrained:
    side = b(heldout=b()) if problem.heldout is not None else b()
    return Constrained(problem, [Constraint(side, 1.0, margin=0.0)], **options)


def test_a_constrained_problem_weighs_and_groups_its_pairs_as_the_plain_one() -> None:
    plain = weighed(heldout=weighed(seed=1))
    problem = bounded(plain)
    found = evaluate(problem, Greedy()(problem), k=2)
    assert found.units == "24 pairs in 12 groups"
    z = torch.zeros(N)
    z[[list(problem.space.names).index(name) for name in found.components]] = 1
    assert found.chosen.effect == pytest.approx(plain.heldout.value(z).item())
    own = evaluate(plain, ct.Selection.parse(list(found.components)))
    assert own.chosen.interval == pytest.approx(found.chosen.interval, rel=1e-6)
    assert own.units == found.units
    assert found.training_effect == pytest.approx(plain.value(z).item())
    with pytest.raises(InputError, match="no audit pairs"):
        evaluate(bounded(weighed()), Greedy()(bounded(weighed())), pairs="audit")
    plain.audit = weighed(seed=2)
    sealed = bounded(plain)
    judged = evaluate(sealed, Greedy()(sealed), k=2, pairs="audit")
    z = torch.tensor([float(name in judged.components) for name in sealed.space.names])
    assert judged.chosen.effect == pytest.approx(plain.audit.value(z).item())


def test_a_sum_is_judged_on_audit_pairs_where_all_its_problems_have_some() -> None:
    parts = [weighed(seed=seed) for seed in (0, 1)]
    total = WeightedSum([(1.0, parts[0]), (0.5, parts[1])])
    assert total.audit is None
    parts[0].audit, parts[1].audit = weighed(seed=2), weighed(seed=3)
    z = torch.linspace(0, 1, N)
    expected = parts[0].audit.value(z) + 0.5 * parts[1].audit.value(z)
    assert total.audit is not None
    assert total.audit.value(z).item() == pytest.approx(expected.item())


def test_parts_and_spaces_without_members_keep_the_constraints() -> None:
    problem = bounded(weighed(heldout=weighed(seed=1)))
    everywhere = [Subproblem(problem, range(10)), Subproblem(problem, without=[problem.space[1]])]
    for view in everywhere:
        frontier = Greedy()(view)
        assert frontier.bounds == problem.bounds
        for selection in frontier:
            harm = sum(HARM[problem.space.index(member)] for member in selection.members)
            assert abs(harm) <= 1.0 + 1e-9


def test_certificates_and_choices_among_stored_sets_keep_the_constraints() -> None:
    """The greatest gains harm most: without the bound the optimum is {0, 1}, within it {1, 3}."""
    plain, k = a(size=12), 2
    problem = bounded(plain)
    frontier = Exhaustive(max_size=k)(problem)
    assert frontier.effects is None or len(frontier.effects) < 55
    found = evaluate(problem, frontier, level="full", k=k).certificate
    assert found is not None
    assert found.optimum == pytest.approx(best_within(k, -1, 1))
    assert found.gap == pytest.approx(0)
    assert "that keep the constraints" in found.words
    stored = bounded(weighed())
    kept = Exhaustive(max_size=k)(stored).effects
    assert kept is not None
    harms = kept.chosen @ torch.tensor(HARM).double().numpy()
    assert (abs(harms) <= 1.0 + 1e-6).all()
    assert len(kept) < 55


class OnSome(ClosedForm):
    """Searches see half of the pairs."""

    @property
    def searched(self) -> ClosedForm:
        return replace(self, size=self.size // 2, heldout=None) if self.size > 4 else self


def test_prices_of_losses_are_the_same_on_the_pairs_that_searches_see() -> None:
    def half(effects: Tensor) -> Tensor:
        return -0.5 * effects

    whole = OnSome(modular([g / 100 for g in GAIN]), N)
    problem = Constrained(whole, [Constraint(b(), 1.0)])
    z = torch.ones(N)
    seen = problem.searched
    assert seen is not problem
    assert torch.allclose(seen.gradient(z, half), problem.gradient(z, half))
    assert problem.gradient(z, half).abs().max() > 1  # the violation, by 1 / |full effect of 0.129|


def test_the_best_for_their_cost_hold_at_most_max_size() -> None:
    frontier = Pursuit(max_size=3, cost_weights="balanced")(a())
    assert frontier.by_cost
    assert max(selection.k for selection in frontier.by_cost) == 3


def test_the_weighted_mean_of_a_sums_effects_is_its_value() -> None:
    one, two = weighed(24, heldout=weighed(24, 2)), weighed(8, 1, heldout=weighed(8, 3))
    together = WeightedSum([(0.7, one), (2.0, two)])
    z = (torch.rand(N, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    effects, weights = together.effects(z), together.weights
    assert (effects * weights).sum() / weights.sum() == pytest.approx(together.value(z).item())
    assert together.value(z).item() == pytest.approx(0.7 * one.value(z).item() + 2 * two.value(z).item())
    assert together.shares == [0.7, 2.0]
    assert len(set(together.clusters)) == 12  # the second's groups g0 .. g3 are those of the first, of one task
    found = evaluate(together, Greedy(max_size=3)(together), k=3)
    chosen = torch.tensor([float(name in found.components) for name in together.space.names])
    assert found.chosen.effect == pytest.approx(together.heldout.value(chosen).item())
    assert found.chosen.interval is not None
