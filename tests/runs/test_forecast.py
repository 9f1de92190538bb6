"""The forecast of a run: what its search will cost, times what a pass takes; finding it out leaves no trace."""

from __future__ import annotations

import time

import pytest
import torch

from cotrace.problem import LanguageProblem
from cotrace.problem.scorer import Scorer
from cotrace.runs.forecast import forecast
from cotrace.search import PGBCT, Greedy, Pursuit, Random, TopK
from cotrace.search.solve import Search
from tests import tiny


def problem(**more: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), tiny.task(8), sites=["head_output"], holdout=0.25, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("search", [Greedy(max_size=3), TopK(), Random(max_size=4, draws=2), PGBCT(epochs=4)])
def test_the_cost_is_what_the_search_will_spend(search: Search) -> None:
    found = forecast(problem(), [search]).searches[search.name]
    assert found.forward_equivalents == pytest.approx(search(problem()).forward_equivalents, rel=0.1)


def test_a_subset_is_predicted_by_its_share() -> None:
    found = forecast(problem(search_pairs=3), [Greedy(max_size=4)]).searches["greedy"]
    assert found.forward_equivalents == pytest.approx((12 + 11 + 10 + 9) / 2 + 4)
    assert Greedy(max_size=4)(problem(search_pairs=3)).forward_equivalents == found.forward_equivalents


def test_a_forecast_changes_nothing() -> None:
    built = problem()
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    expected, before, plan = built.gradient(z), built.cost.forward_equivalents, built.batch_plan
    found = forecast(built, [Pursuit(), Greedy(max_size=2)], "quick")
    assert (built.cost.forward_equivalents, built.batch_plan) == (before, plan)
    assert torch.equal(built.gradient(z), expected)
    assert list(found.searches) == ["pursuit", "greedy"]
    assert 0 < found.evaluation <= 150


def test_time_is_cost_times_the_measured_seconds_of_a_forward_equivalent(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock where each mask takes 3 s on all pairs and a gradient 10 s: 5 s of each of its two."""
    now, built = [0.0], problem(batch_tokens=24)
    scorer = built.training.scorer
    cells = sum(layout.cells for layout in scorer.all_layouts)
    assert len(scorer.all_layouts) > 1
    scores, slope = Scorer.scores, Scorer.slope

    def share(examples: object) -> float:
        return sum(layout.cells for layout in scorer.layouts(examples)) / cells  # type: ignore[arg-type]

    def slow_scores(self: Scorer, masks: torch.Tensor, examples: object = None) -> torch.Tensor:
        now[0] += 3.0 * len(masks) * share(examples)
        return scores(self, masks, examples)  # type: ignore[arg-type]

    def slow_slope(self: Scorer, z: torch.Tensor, loss: object, examples: object = None) -> torch.Tensor:
        now[0] += 10.0 * share(examples)
        return slope(self, z, loss, examples)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "scores", slow_scores)
    monkeypatch.setattr(Scorer, "slope", slow_slope)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = forecast(built, [Greedy(max_size=2), PGBCT(epochs=4), Pursuit()], "quick")
    greedy, pgbct, pursuit = found.searches.values()
    assert greedy.seconds == pytest.approx(3 * (12 + 11))
    assert pgbct.seconds == pytest.approx(5 * pgbct.forward_equivalents)
    assert 3 * pursuit.forward_equivalents < pursuit.seconds < 5 * pursuit.forward_equivalents
    judged = sum(layout.cells for layout in built.counted_parts["heldout"].scorer.all_layouts)
    assert found.evaluation_s == pytest.approx(3 * found.evaluation * judged / cells)
    assert found.seconds == pytest.approx(greedy.seconds + pgbct.seconds + pursuit.seconds + found.evaluation_s)
