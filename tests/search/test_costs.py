"""What a search says that it will cost, against what it then spends, on closed-form problems of many sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cotrace.problem.protocol import Mode
from cotrace.runs.forecast import FORECAST_WITHIN
from cotrace.search import SEARCHES, Pursuit, Search, named
from tests.problems import ClosedForm, Formula, modular, pairwise, saturating

FORMULAS: list[Callable[[int], Formula]] = [
    lambda n: saturating(n, seed=1),
    lambda n: pairwise(n, 1.0, seed=2),
    lambda n: modular([((7 * i) % n - n / 3) / n for i in range(n)]),
]
"""Units that saturate and feed one another, interactions of all pairs, and effects that only add up."""
LIGHT: dict[str, dict[str, Any]] = {"matryoshka": {"updates": 20}, "pgbct": {"path": 6, "epochs": 4}}


def check(search: Search, n: int, mode: Mode = "swap") -> None:
    """Spent is never above the bound, and the prediction is as near to it as the forecast of a run says."""
    predicted, most = search.predicted_cost(n), getattr(search, "most_cost", search.predicted_cost)(n)
    for formula in FORMULAS:
        spent = search(ClosedForm(formula(n), n, mode=mode)).forward_equivalents
        assert spent <= most + 1e-6
        assert predicted == pytest.approx(spent, rel=0, abs=FORECAST_WITHIN * spent)


@pytest.mark.parametrize("n", [12, 40, 60, 300])
@pytest.mark.parametrize("max_size", [4, "half", None])
def test_pursuit(n: int, max_size: int | str | None) -> None:
    """With a small max size the way down still visits every size: 60 were said at N = 40 and k = 4, and 138 spent."""
    check(Pursuit(max_size=n // 2 if max_size == "half" else max_size), n)  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", ["fast", "thorough"])
@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("max_size", [4, None])
def test_pursuit_of_other_efforts(n: int, max_size: int | None, effort: str) -> None:
    check(Pursuit(max_size=max_size, effort=effort), n)


@pytest.mark.parametrize(
    "search",
    [Pursuit(gradient_share=0.25), Pursuit(max_size=4, gradient_share=0.25), Pursuit(sizes=(3, 10, 25)), Pursuit()],
)
def test_pursuit_in_keep_mode_on_a_share_of_the_pairs_and_at_given_sizes(search: Pursuit) -> None:
    check(search, 40, "keep")


@pytest.mark.parametrize(
    ("n", "max_size", "mode"), [(12, None, "swap"), (12, 4, "keep"), (28, None, "swap"), (300, 4, "swap")]
)
@pytest.mark.parametrize("name", sorted(set(SEARCHES) - {"pursuit"}))
def test_the_others(name: str, n: int, max_size: int | None, mode: Mode) -> None:
    if n > 12 and name in ("exhaustive", "pgbct"):
        pytest.skip("so many sets take long, and are counted; what PGBCT costs does not depend on N")
    sized = {"max_size": max_size} if max_size and "max_size" in SEARCHES[name].__dataclass_fields__ else {}
    check(named(name, **LIGHT.get(name, {}), **sized), n, mode)
