"""Transformers with weights set by hand: the circuit is known, and Pursuit finds exactly it."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from cotrace.components import ComponentSpace
from cotrace.problem import LanguageProblem
from cotrace.search import Attribution, Exhaustive, Greedy, Pursuit, TopK
from tests.handmade import PLANTED, Planted


@cache
def planted(name: str) -> Planted:
    return PLANTED[name]()


def posed(name: str, mode: str | None = None, space: tuple[str, ...] = ()) -> LanguageProblem:
    """The problem of a planted circuit, over all heads or some."""
    one = planted(name)
    sites = ComponentSpace.parse(space) if space else ["head_output"]
    return LanguageProblem(
        one.model,
        one.task,
        sites=sites,
        donors=one.donors,
        mode=mode or one.mode,
        holdout=0,
    )


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_the_decoder_does_what_it_was_wired_for(name: str) -> None:
    """Every base prompt goes on with its own answer, for at least 1 in log odds (where it is inhibited, at all)."""
    problem = posed(name)
    scores = problem.training.scorer.base
    least = 0.0 if name == "inhibited copy" else 1.0
    assert float((scores[:, 0] - scores[:, 1]).min()) > least


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_pursuit_finds_exactly_the_circuit(name: str) -> None:
    problem, circuit = posed(name), planted(name).circuit
    frontier = Pursuit(max_size=4)(problem)
    assert tuple(frontier.at(len(circuit)).components) == circuit
    assert frontier.search == "pursuit"
    assert float(frontier.at(len(circuit)).effect or 0) > 0.95


@pytest.mark.parametrize("mode", ["swap", "keep"])
@pytest.mark.parametrize("name", ["induction", "inhibited copy"])
def test_pursuit_is_optimal_at_every_size(name: str, mode: str) -> None:
    found, true = Pursuit()(posed(name, mode)), Exhaustive()(posed(name, mode))
    assert [s.effect for s in found] == pytest.approx([s.effect for s in true], abs=1e-9)


def test_serial_heads_are_missed_one_by_one() -> None:
    """Neither head of the induction pair keeps anything alone, so exact single steps cannot see them."""
    problem, circuit = posed("induction"), list(planted("induction").circuit)
    for search in (Greedy(), TopK(), Attribution(at="none")):
        assert search(problem).at(2).components != circuit
    alone = problem.value(torch.stack([1 - torch.eye(8)[i] for i in (2, 5)]))
    assert alone.tolist() == pytest.approx([0, 0], abs=1e-3)


def test_a_backup_hides_what_it_stands_in_for() -> None:
    """Without the head of the first hop its backup works; only both together stop the answer."""
    space = ("L1.head0", "L1.head1", "L1.head2", "L2.head0", "L2.head1", "L2.head2", "L3.head0", "L3.head2")
    problem = posed("two hops", "swap", space)
    effects = problem.value(torch.eye(8)[[0, 5]]).tolist()
    pair = problem.value(torch.eye(8)[[0, 5]].sum(0)).item()
    assert max(map(abs, effects)) < 0.05 * abs(pair)
    assert Pursuit(max_size=3)(problem).at(2).components == ["L1.head0", "L2.head2"]


def test_an_inhibitor_stays_out_until_the_last() -> None:
    """The copies alone keep ten times the whole's effect; with the inhibitor what is left is the whole's own."""
    frontier = Pursuit()(posed("inhibited copy"))
    assert frontier.at(2).effect == pytest.approx(2 / 0.2 - 0.2, rel=0.05)
    assert all("L1.head2" not in frontier.at(k).components for k in range(1, 8))
    assert frontier.at(8).effect == pytest.approx(1.0)
