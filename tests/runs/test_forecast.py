"""The plan of a run: its cost is what the search will ask for, and finding it out leaves no trace."""

from __future__ import annotations

import pytest
import torch

from cotrace.problem import LanguageProblem
from cotrace.problem.probe import Probe
from cotrace.problem.resident import peak_growth, resident_bytes
from cotrace.runs.forecast import forecast
from cotrace.search import PGBCT, Greedy, Pursuit, Random, TopK
from cotrace.search.driver import Search
from cotrace.search.rehearsal import rehearse
from tests import tiny

CPU = torch.device("cpu")


def problem(**more: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), tiny.task(8), sites=["head_output"], holdout=0.25, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("search", [Greedy(max_size=3), TopK(), Random(max_size=4, draws=2), PGBCT(epochs=4)])
def test_a_rehearsal_asks_for_what_the_search_will_ask_for(search: Search) -> None:
    built = problem()
    rehearsed = rehearse(search, built)
    assert rehearsed is not None
    assert rehearsed.forward_equivalents == pytest.approx(search(built).forward_equivalents, rel=0.1)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_pursuit_is_predicted_within_a_quarter(mode: str) -> None:
    built = LanguageProblem(tiny.model("llama"), tiny.task(8), sites=["mlp_neuron"], holdout=0, mode=mode)  # type: ignore[arg-type]
    search = Pursuit(max_size=8)
    found = forecast(built, [search]).searches["pursuit"]
    spent = search(built).forward_equivalents
    assert found.forward_equivalents == pytest.approx(spent, rel=0.25)
    assert found.at_most >= spent


def test_a_forecast_changes_nothing() -> None:
    built = problem()
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    expected = built.gradient(z)
    before, plan, passes = built.cost.forward_equivalents, built.batch_plan, built.cost.passes
    found = forecast(built, [Pursuit(), Greedy(max_size=2)], "quick")
    assert (built.cost.forward_equivalents, built.batch_plan, built.cost.passes) == (before, plan, passes)
    assert torch.equal(built.gradient(z), expected)
    assert set(found.searches) == {"pursuit", "greedy"}
    assert found.searches["greedy"].forward_equivalents == 23
    assert 0 < found.evaluation <= 150
    assert found.seconds is not None
    assert found.seconds > 0


def test_time_is_reckoned_in_layers_that_are_run() -> None:
    probe = Probe(problem().training.scorer)
    head = probe.head_units
    assert probe.units(torch.eye(12)[:1]) == pytest.approx(3 + head)
    last = torch.eye(12)[8:]  # four masks that differ in the third layer: below it one run does for all
    shared = probe.scorer.packing.shortcuts  # not with GPT-2's own mask in transformers 5.0
    assert probe.units(last) == pytest.approx(3 + head + 4 * (1 + head) if shared else 4 * (3 + head))
    rates = probe.rates([torch.eye(12)], 40)
    assert rates is not None
    assert min(rates.gradient_s, rates.unit_s, rates.plain_unit_s) > 0


def test_a_subset_is_predicted_by_its_share() -> None:
    found = forecast(problem(search_pairs=3), [Greedy(max_size=4)]).searches["greedy"]
    assert found.forward_equivalents == pytest.approx((12 + 11 + 10 + 9) / 2 + 4)
    assert Greedy(max_size=4)(problem(search_pairs=3)).forward_equivalents == found.forward_equivalents


def test_memory_that_a_run_takes_is_seen() -> None:
    taken: list[torch.Tensor] = []
    grown = peak_growth(CPU, lambda: taken.append(torch.ones(2**24)))
    assert grown is None or grown == pytest.approx(2**26, rel=0.1)
    assert resident_bytes(CPU) > 2**26


def test_what_does_not_fit_has_no_time() -> None:
    built = problem()

    def refuse(module: object, args: object, output: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = built.model.module.get_input_embeddings().register_forward_hook(refuse)
    found = forecast(built, [Greedy(max_size=2)])
    handle.remove()
    assert found.seconds is None
    assert found.peak_bytes is None
    assert not built.batch_plan["events"]
