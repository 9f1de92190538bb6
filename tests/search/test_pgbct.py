"""PGBCT against torch's own Adam, against recorded runs of the published code, and its sweeps and paths."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cotrace.errors import DegenerateError, InputError
from cotrace.search import PGBCT
from cotrace.search.pgbct import penalty_slope
from tests.problems import ClosedForm, modular, saturating

ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
RUNS = ("traj_tiny_winobias_lr0.1_lam1e-3.json", "traj_tiny_professions_lr0.1_lam1e-3.json")


def reference(problem: ClosedForm, order: list[list[int]], batch: int, l1: float, l2: float) -> list[Tensor]:
    """The published loop, written with torch.optim.Adam and one autograd graph."""
    z = torch.full((problem.n,), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=0.1)
    path = []
    for epoch, examples in enumerate(order):
        for start in range(0, len(examples), batch):
            optimiser.zero_grad()
            m = problem._formula(z.double()[None])[0, examples[start : start + batch]]
            loss = (1 / (1 + m)).mean() + (epoch + 1) * (l1 * z.abs().sum() + l2 * (z * (1 - z)).sum())
            loss.backward()
            optimiser.step()
            z.data.clamp_(0, 1)
            path.append(z.detach().clone())
    return path


def test_follows_the_published_loop() -> None:
    problem = ClosedForm(lambda s: 0.1 * saturating(12, seed=1)(s), 12, metric="odds_ratio")
    order = ((7, 2, 0, 1, 3, 6, 5, 4), (0, 1, 2, 3, 4, 5, 6, 7))
    search = PGBCT(l1=0.02, l2=0.01, epochs=2, batch_size=3, order=order)
    found = [state.z for state in search.steps(problem) if state.phase == "descent"]
    wanted = reference(problem, [list(part) for part in order], 3, 0.02, 0.01)
    assert len(found) == len(wanted) == 6
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), atol=1e-6, rtol=0)


@dataclass
class Replay(ClosedForm):
    """Gives back recorded gradients, less the penalties that the search adds itself."""

    gradients: list[Tensor] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def gradient(self, z: Tensor, objective: Any = None, examples: Any = None) -> Tensor:
        """The recorded gradient of the step."""
        self.asked.append(list(examples))
        return self.gradients[len(self.asked) - 1]


@pytest.mark.parametrize("name", RUNS)
def test_replays_recorded_runs(name: str) -> None:
    if not (ORACLE / name).exists():
        pytest.skip("the recorded runs are not beside the repository")
    run = json.loads((ORACLE / name).read_text())
    after, slopes = (torch.tensor(run[part]).flatten(1) for part in ("z", "grad"))
    before = torch.cat([torch.full_like(after[:1], 0.5), after[:-1]])
    steps = len(after) // 3
    plain = [g - penalty_slope(z, 1e-3, 1e-3, t // steps) for t, (g, z) in enumerate(zip(slopes, before, strict=True))]
    pairs = len(run["order"][0])
    problem = Replay(modular([0.0] * len(before[0])), len(before[0]), pairs, metric="odds_ratio", gradients=plain)
    search = PGBCT(order=tuple(map(tuple, run["order"])))
    states = [state for state in search.steps(problem) if state.phase == "descent"]
    assert len(states) == len(after)
    assert problem.asked[0] == run["order"][0][:32]
    assert sum(map(len, problem.asked)) == 3 * pairs
    torch.testing.assert_close(torch.stack([state.z for state in states]), after, atol=1e-3, rtol=0)
    truncated = torch.stack([state.z for state in states[steps - 1 :: steps]]) >= 0.5
    assert torch.equal(truncated.float(), torch.tensor(run["z_truncated"]).flatten(1))


def test_large_penalty_keeps_the_strong_only() -> None:
    weights = [0.5, -0.2, 0.3, 0.001, 0.4, -0.1]
    for mode in ("swap", "keep"):
        problem = ClosedForm(modular(weights), 6, mode=mode, metric="log_odds")  # type: ignore[arg-type]
        frontier = PGBCT(l1=0.005, l2=0.005, epochs=8, batch_size=4)(problem)
        assert frontier.sizes == [3]
        assert frontier.at(3).members == tuple(problem.space[i] for i in (0, 2, 4))
        assert frontier.at(3).effect == pytest.approx(1.2)
        assert frontier.forward_equivalents == 17


def test_path_finds_distinct_sizes() -> None:
    problem = ClosedForm(modular([0.02 * 1.3**i for i in range(16)]), 16)
    search = PGBCT(path=12, epochs=6, batch_size=4)
    frontier = search(problem)
    assert len(frontier) >= 6
    assert all(set(s.members) == set(problem.space[16 - s.k :]) for s in frontier)
    assert frontier.forward_equivalents <= search.predicted_cost(16)


def test_penalties_that_select_nothing_say_so() -> None:
    problem = ClosedForm(modular([0.001] * 5), 5)
    with pytest.raises(DegenerateError, match=r"select 0 of 5 components: try smaller penalties, about 8.3e-05"):
        PGBCT(l1=1.0)(problem)


def test_penalties_that_select_everything_say_so() -> None:
    frontier = PGBCT(l1=0.0, l2=0.0)(ClosedForm(modular([0.1] * 5), 5))
    assert frontier.sizes == [5]
    assert "select 5 of 5 components: try larger penalties" in frontier.summary


def test_a_path_goes_on_until_something_is_selected() -> None:
    """Effects so small beside the penalties' rounding that the first ones select nothing, or everything."""
    problem = ClosedForm(modular([1e-7] * 6), 6)
    assert PGBCT(path=8)(problem).sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, "l1 is -1.0"),
        ({"l1": (0.1, 0.2, 0.3), "l2": (0.1, 0.2)}, "3 values of l1 and 2 of l2"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"epochs": 2, "order": ((0, 1),)}, "order has 1 epochs"),
        ({"path": 1}, "path is 1"),
    ],
)
def test_bad_hyperparameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGBCT(**options)
