"""Pursuit: planted circuits found exactly, never below greedy where the figures say so, limits, warm starts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from cotrace.errors import DegenerateError, InputError, UnknownName
from cotrace.problem.protocol import Mode
from cotrace.search import (
    PGBCT,
    Attribution,
    Exhaustive,
    Greedy,
    HardConcrete,
    Limits,
    Matryoshka,
    Pursuit,
    Search,
    TopK,
    solve,
)
from cotrace.search.hyperparameters import geometric
from tests.problems import ClosedForm, Formula, all_of, any_of, heads, modular, pairwise, saturating


def brute(formula: Formula, n: int, k: int) -> float:
    """The best mean effect of all sets of k."""
    rows = torch.zeros(0, n)
    rows = torch.stack([torch.zeros(n).index_fill(0, torch.tensor(c), 1.0) for c in combinations(range(n), k)])
    effects = formula(rows.double())
    return float((effects if effects.ndim == 1 else effects.mean(1)).max())


def planted(members: list[int], n: int, modes: tuple[Mode, ...] = ("swap", "keep")) -> list[ClosedForm]:
    """AND of the members over a little noise."""
    noise = modular([1e-3 * (-1) ** i for i in range(n)])
    return [ClosedForm(lambda s: all_of(s, members) + noise(s), n, mode=mode) for mode in modes]


@pytest.mark.parametrize("n", [24, 64])
def test_finds_an_and_circuit(n: int) -> None:
    members = [3, 8, 9, 17]
    for problem in planted(members, n):
        assert Pursuit()(problem).at(4).members == tuple(problem.space[i] for i in members)


def test_single_effects_miss_the_and_circuit() -> None:
    problem = planted([3, 8, 9, 17], 24, ("swap",))[0]
    assert TopK()(problem).at(4).effect == pytest.approx(0.004, abs=1e-6)


@pytest.mark.parametrize("n", [12, 30])
def test_finds_an_and_of_ors(n: int) -> None:
    """Flat at both ends: no single component matters from nothing or from everything."""
    problem = ClosedForm(lambda s: any_of(s, [1, 5]) * any_of(s, [2, 9]), n)
    frontier = Pursuit()(problem)
    assert frontier.at(2).effect == 1
    assert frontier.at(2).members in [tuple(heads(n)[i] for i in pair) for pair in ((1, 2), (1, 9), (2, 5), (5, 9))]


def test_takes_one_of_redundant_backups() -> None:
    def formula(s: Tensor) -> Tensor:
        return any_of(s, [0, 1, 2]) + 0.6 * s[:, 7] + 0.5 * any_of(s, [10, 11])

    frontier = Pursuit()(ClosedForm(formula, 28))
    assert [frontier.at(k).effect for k in (1, 2, 3)] == pytest.approx([1.0, 1.6, 2.1])


def steep_alone(s: Tensor) -> Tensor:
    """Component 0 does most alone, and its slope is 0 at nothing and at everything."""
    rest = modular([0.0, 2.0, 1.9] + [0.05 + 0.001 * i for i in range(27)])
    return 3 * torch.tanh((4 * s[:, 0] ** 2 * (3 - 2 * s[:, 0]) + rest(s)) / 2)


@pytest.mark.parametrize("effort", ["fast", "normal"])
@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_finds_the_best_single_where_its_slope_is_flat_at_both_ends(effort: str, mode: Mode) -> None:
    problem = ClosedForm(steep_alone, 30, mode=mode)
    assert Pursuit(effort=effort)(problem).at(1).members == (problem.space[0],)


def test_leaves_an_inhibitor_out() -> None:
    def formula(s: Tensor) -> Tensor:
        return all_of(s, [4, 6]) * (1 - s[:, 2]) + 0.2 * s[:, 2] + 0.01 * s[:, 12:20].sum(1)

    problem = ClosedForm(formula, 26)
    frontier = Pursuit()(problem)
    assert frontier.at(2).members == (problem.space[4], problem.space[6])
    assert problem.space[2] not in frontier.at(10).members


@pytest.mark.parametrize("mode", ["swap", "keep"])
@pytest.mark.parametrize("seed", range(4))
def test_optimum_of_every_size_in_small_spaces(seed: int, mode: Mode) -> None:
    formula = pairwise(10, 1.5, seed)
    frontier = Pursuit()(ClosedForm(formula, 10, mode=mode))
    wanted = [brute(formula, 10, k) for k in range(1, 11)]
    assert [selection.effect for selection in frontier] == pytest.approx(wanted, rel=1e-5)


def test_optimum_on_a_small_network() -> None:
    problem = ClosedForm(saturating(12, seed=5), 12)
    true = [selection.effect for selection in Exhaustive()(problem)]
    assert [selection.effect for selection in Pursuit()(problem)] == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_at_or_above_greedy_for_less(seed: int) -> None:
    formula = pairwise(40, 1.0, seed)
    pursuit, greedy = Pursuit()(ClosedForm(formula, 40)), Greedy()(ClosedForm(formula, 40))
    peak = max(abs(selection.effect or 0) for selection in greedy)
    lowest = min((a.effect or 0) - (b.effect or 0) for a, b in zip(pursuit, greedy, strict=True))
    assert lowest >= -0.005 * peak
    assert pursuit.forward_equivalents <= 0.4 * greedy.forward_equivalents


def test_minimises() -> None:
    formula = pairwise(12, 1.0, 7)
    frontier = Pursuit()(ClosedForm(formula, 12, direction="minimise"))
    assert [s.effect for s in frontier] == pytest.approx([-brute(formula, 12, k) for k in range(1, 13)], rel=1e-5)


@pytest.mark.parametrize("effort", ["fast", "normal", "thorough"])
@pytest.mark.parametrize("n", [6, 45, 100])
def test_cost_stays_within_its_prediction(effort: str, n: int) -> None:
    search = Pursuit(effort=effort)
    problem = ClosedForm(pairwise(n, 1.0, 0), n)
    frontier = search(problem)
    assert frontier.sizes == list(range(1, n + 1))
    assert frontier.forward_equivalents == problem.cost.forward_equivalents <= search.most_cost(n)


@pytest.mark.parametrize("mode", ["swap", "keep"])
@pytest.mark.parametrize(("n", "most"), [(40, None), (60, 20)])
def test_thorough_is_below_greedy_at_no_size_where_gradients_mislead(n: int, most: int | None, mode: Mode) -> None:
    """On random tanh networks single sizes of ``normal`` fall up to a third below greedy."""
    formula = saturating(n, seed=1)
    greedy = Greedy(max_size=most)(ClosedForm(formula, n, mode=mode))
    problem = ClosedForm(formula, n, mode=mode)
    search = Pursuit(max_size=most, effort="thorough")
    frontier = search(problem)
    assert all(a.effect >= b.effect for a, b in zip(frontier, greedy, strict=True))
    assert problem.cost.forward_equivalents <= search.most_cost(n)


def test_whole_frontier_at_144_within_600() -> None:
    problem = ClosedForm(pairwise(144, 1.0, 0), 144)
    assert Pursuit()(problem).forward_equivalents <= 600
    assert Pursuit(effort="fast")(problem).forward_equivalents <= 300


def test_large_space() -> None:
    """As many components as GPT-2 small has neurons; 30 strong ones planted."""
    n = 36_864
    draw = torch.Generator().manual_seed(0)
    weights = 1e-3 * torch.randn(n, generator=draw, dtype=torch.float64)
    weights[torch.randperm(n, generator=draw)[:30]] = 1.0
    problem = ClosedForm(lambda s: torch.tanh(s @ weights / 20), n, size=1)
    frontier = Pursuit()(problem)
    assert len(frontier) >= 20
    assert frontier.forward_equivalents <= 1000
    size = max(size for size in frontier.sizes if size <= 30)
    strongest = float(torch.tanh(torch.sort(weights, descending=True).values[:size].sum() / 20))
    assert frontier.at(size).effect == pytest.approx(strongest, rel=1e-4)


def test_max_size_and_grid() -> None:
    problem = ClosedForm(modular([float(i) for i in range(30)]), 30)
    assert Pursuit(max_size=7)(problem).sizes == list(range(1, 8))
    frontier = Pursuit(sizes=(2, 9, 20))(problem)
    assert frontier.sizes == [2, 9, 20]
    assert frontier.at(9).effect == sum(range(21, 30))


@pytest.mark.parametrize("effort", ["fast", "normal", "thorough"])
@pytest.mark.parametrize(("n", "most"), [(1, 1), (2, 1), (2, 2), (21, 5), (61, 61), (257, 3), (270, 40), (300, 256)])
def test_every_size_has_a_set_up_to_256(n: int, most: int, effort: str) -> None:
    """Whatever N; what no stop came by costs one evaluation, and the prediction knows of it."""
    search, problem = Pursuit(effort=effort, max_size=most), ClosedForm(modular([1.0 + i for i in range(n)]), n)
    frontier = search(problem)
    assert frontier.sizes == list(range(1, most + 1))
    assert [s.effect for s in frontier] == pytest.approx([sum(n - i for i in range(k)) for k in range(1, most + 1)])
    assert frontier.forward_equivalents == problem.cost.forward_equivalents <= search.most_cost(n)
    assert search.predicted_cost(n) >= 1


def test_sizes_between_stops_cost_one_evaluation_each() -> None:
    formula = saturating(300, seed=3)
    frontier = Pursuit(effort="fast", max_size=120)(ClosedForm(formula, 300))
    stops = Pursuit(effort="fast", max_size=120, sizes=tuple(geometric(120, 14)))(ClosedForm(formula, 300))
    assert frontier.forward_equivalents - stops.forward_equivalents <= 120 - len(stops)
    best = [(stops.best(k).effect or 0) for k in range(1, 121)]
    worst = min((s.effect or 0) - b for s, b in zip(frontier, best, strict=True))
    assert worst >= -0.05 * max(best), "a filled size is not far below the stop before it"


@pytest.mark.parametrize(
    "search", [Pursuit(), Attribution(), HardConcrete(epochs=1, lambdas=(1.0,)), Matryoshka(updates=2)]
)
def test_a_grid_is_said_where_there_are_more_sizes(search: Search) -> None:
    frontier = search(ClosedForm(modular([1.0 + i for i in range(300)]), 300))
    left_out = next(k for k in range(1, 300) if k not in frontier.sizes)
    assert f"{len(frontier)} of the sizes 1..300" in frontier.summary
    assert "a max size of at most 256" in frontier.summary
    below = max(k for k in frontier.sizes if k < left_out)
    with pytest.raises(InputError, match=rf"exactly {left_out}: .* below is {below}, and best\({left_out}\) is"):
        frontier.at(left_out)
    assert type(search)(max_size=256)(ClosedForm(modular([1.0] * 300), 300)).sizes == list(range(1, 257))


@pytest.mark.parametrize("n", [1, 12, 40, 100, 300])
@pytest.mark.parametrize("effort", ["fast", "normal", "thorough"])
def test_the_sizes_given_are_the_only_ones(n: int, effort: str) -> None:
    for sizes in {(n,), (max(1, n // 3), max(1, n // 2))}:
        search, problem = Pursuit(sizes=sizes, effort=effort), ClosedForm(modular([1.0 + i for i in range(n)]), n)
        frontier = search(problem)
        assert frontier.sizes == sorted(set(sizes))
        assert frontier.at(sizes[-1]).effect == sum(n - i for i in range(sizes[-1]))
        assert problem.cost.forward_equivalents <= search.most_cost(n)


def test_warm_start_is_never_worse() -> None:
    formula = saturating(24, seed=2)
    greedy = Greedy()(ClosedForm(formula, 24))
    frontier = solve(Pursuit(effort="fast"), ClosedForm(formula, 24), start=greedy)
    assert all((a.effect or 0) >= (b.effect or 0) for a, b in zip(frontier, greedy, strict=True))


def test_limits() -> None:
    def problem() -> ClosedForm:
        return ClosedForm(modular([float(i) for i in range(30)]), 30)

    cheap = solve(Pursuit(), problem(), limits=Limits(forward_equivalents=40))
    assert 40 <= cheap.forward_equivalents < 50
    assert solve(Greedy(), problem(), limits=Limits(effect=29 + 28)).sizes == [1, 2]
    assert solve(Greedy(), problem(), limits=Limits(elapsed_s=0.0)).sizes == [1]


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_gradients_on_a_share_of_the_pairs(mode: Mode) -> None:
    """A gradient on two pairs of eight costs a quarter, and evaluations stay exact."""
    problem = ClosedForm(pairwise(40, 1.0, 0), 40, mode=mode)
    search = Pursuit(gradient_share=0.25)
    frontier, whole = search(problem), Pursuit()(problem)
    assert frontier.forward_equivalents < whole.forward_equivalents
    assert frontier.forward_equivalents <= search.most_cost(40)
    assert search(problem).selections == frontier.selections
    members = torch.tensor([c in frontier.at(9).members for c in problem.space]).float()
    wanted = problem.value(members if mode == "swap" else 1 - members).item()
    assert frontier.at(9).effect == pytest.approx(wanted)


def warm_elsewhere() -> None:
    other = Greedy()(ClosedForm(modular([1.0, 2.0]), 2))
    solve(Pursuit(), ClosedForm(modular([1.0, 2.0, 3.0]), 3), start=other)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda p: Pursuit(max_size=0), InputError, r"pursuit: max size 0 is outside 1\.\.N; ask for at least"),
        (Pursuit(max_size=31), InputError, r"pursuit: max size 31 is outside 1\.\.30; the space has 30"),
        (Pursuit(sizes=(1, 35)), InputError, r"pursuit: size 35 is outside 1\.\.30; give sizes"),
        (Pursuit(sizes=()), InputError, r"pursuit: no size is given; sizes are outside 1\.\.30"),
        (Pursuit(sizes=(0,)), InputError, r"pursuit: size 0 is outside 1\.\.30"),
        (lambda p: Pursuit(effort="fas"), UnknownName, "did you mean 'fast'"),
        (lambda p: Pursuit(gradient_share=0.0), InputError, "gradient_share is 0.0; give a number above 0"),
        (lambda p: Pursuit(gradient_share=1.5), InputError, "gradient_share is 1.5; give a number from 0 to 1"),
        (Exhaustive(), InputError, r"exhaustive: 1,073,741,823 sets .* limit of 200,000; .* use pursuit"),
        (PGBCT(l1=1e4), DegenerateError, "select 0 of 30 components: try smaller penalties, about"),
        (lambda p: warm_elsewhere(), InputError, "a warm start from another space: it has 2 head_output"),
    ],
)
def test_bad_input_is_one_line(bad: Callable[[ClosedForm], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        bad(ClosedForm(modular([0.01 * i for i in range(30)]), 30))
    assert "\n" not in str(caught.value)
