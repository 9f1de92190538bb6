"""The protocol: whole, so that nothing asks whether a problem or a search has an attribute."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cotrace as ct
from cotrace.errors import InputError
from cotrace.problem.protocol import Cost, Problem
from cotrace.problem.subproblem import Subproblem
from cotrace.search import SEARCHES, Greedy
from cotrace.validation import check_kind
from tests.problems import ClosedForm, heads, modular

PACKAGE = Path(ct.__file__).parent
PROBING = ("getattr", "hasattr")
MEMBERS = {name for name in vars(Problem) if name[0] != "_"}
SETTINGS = {"max_size", "sizes", "most_cost", "cost_weights", "transformation", "seed"}


def probes(source: str) -> Iterator[str]:
    """Attributes of a problem, or settings of a search, that are asked for as if there might be none."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = node.args[1]
        if isinstance(node.func, ast.Name) and node.func.id in PROBING and isinstance(name, ast.Constant):
            asked = ast.unparse(node.args[0]).rsplit(".", 1)[-1]
            if asked.endswith(("problem", "search")) or name.value in MEMBERS | SETTINGS:
                yield f"{asked}.{name.value}"


def test_nothing_is_probed_of_problems_and_searches() -> None:
    assert [(path.name, one) for path in PACKAGE.rglob("*.py") for one in probes(path.read_text("utf-8"))] == []


def test_a_probe_would_be_found() -> None:
    assert list(
        probes("getattr(self.problem, 'odd', None); hasattr(part, 'weights'); getattr(config, 'rope', None)")
    ) == [
        "problem.odd",
        "part.weights",
    ]


class Least(Problem):
    """A problem of a user's own, with no more than what is asked for."""

    mode, direction, metric, task, summary = "swap", "maximise", "points", "least", "a sum of weights"

    def __init__(self) -> None:
        self.space, self.size, self.cost = heads(3), 12, Cost()
        self.weight = torch.tensor([1.0, -2.0, 3.0])

    def effects(self, masks: Tensor, examples: object = None) -> Tensor:
        self.cost.charge(masks.numel() / 3)
        return (masks @ self.weight)[..., None].expand(*masks.shape[:-1], self.size)

    def value(self, masks: Tensor) -> Tensor:
        return self.effects(masks).mean(-1)

    def gradient(self, z: Tensor, objective: object = None, examples: object = None) -> Tensor:
        return self.weight


def test_a_problem_of_ones_own_needs_no_more_than_what_is_said() -> None:
    problem = Least()
    frontier = Greedy()(problem)
    assert [selection.effect for selection in frontier] == [3, 4, 2]
    found = ct.evaluate(problem, frontier, k=2)
    assert found.training_effect == 4
    assert found.units == "12 pairs"


class Loose:
    """All that a problem has, but it does not inherit."""

    def __init__(self) -> None:
        self.__dict__ |= vars(ClosedForm(modular([1.0]), 1))


def test_a_class_that_does_not_inherit_is_refused_in_one_line() -> None:
    words = r"problem is of type Loose; give a Problem \(build .* your own inherits from cotrace.problem.Problem\)$"
    with pytest.raises(InputError, match=words):
        check_kind("ct.evaluate", "problem", Loose(), Problem)


def test_searches_have_defaults_and_take_only_settings_of_their_own() -> None:
    for search in (made() for made in SEARCHES.values()):
        assert search.sizes is None
        assert search.cost_weights is None
        assert search.seed == 0
        assert search.most_cost(7) >= search.predicted_cost(7)
        settings = dict.fromkeys(("max_size", "seed"), 5)
        assert {name: getattr(search.set(**settings), name) for name in settings if name in search.settings} == {
            name: 5 for name in settings if name in search.settings
        }
    assert ct.search.PGBCT().max_size is None


def test_some_examples_without_some_components_are_the_problem_there() -> None:
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(4, 8, generator=draw, dtype=torch.float64)
    problem = ClosedForm(lambda s: s @ table, 4)
    some = Subproblem(problem, [1, 5], without=[problem.space[2]], unseen=[0, 3])
    z = torch.tensor([0.5, 1.0, 0.25])
    whole = torch.tensor([0.5, 1.0, 0.0, 0.25]).double()
    assert torch.allclose(some.effects(z).double(), (whole @ table)[[1, 5]])
    assert torch.allclose(some.value(z).double(), (whole @ table)[[1, 5]].mean())
    assert torch.allclose(some.gradient(z).double(), table[[0, 1, 3]][:, [1, 5]].mean(1), atol=1e-6)
    assert some.heldout is not None
    assert torch.allclose(some.heldout.effects(z).double(), (whole @ table)[[0, 3]])
    assert some.space.names == [problem.space.names[i] for i in (0, 1, 3)]
