"""Pairs with the same prompts on both sides of a split are warned of, and only they."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

import cotrace as ct
from cotrace.prompts.task import RepeatedPairs, split_ids, warn_of_repeats
from tests import tiny

PAIRS = tiny.task(8).pairs


def twins(**changes: object) -> tuple[ct.PromptPair, ...]:
    """Every pair twice, the second with other things about it."""
    return PAIRS + tuple(replace(pair, id=f"{pair.id} again", **changes) for pair in PAIRS)  # type: ignore[arg-type]


def test_equal_pairs_across_the_split_are_counted() -> None:
    pairs = twins(meta={"other": 1}, label=0)
    parts = split_ids(pairs, 0.5, 3)
    side = {name: i for i, part in enumerate(parts) for name in part}
    across = [pair.id for pair in PAIRS if side[pair.id] != side[f"{pair.id} again"]]
    assert across  # by this seed; otherwise the test would show nothing
    with pytest.warns(RepeatedPairs, match=f"^{len(across)} pairs have the prompts of a pair .*{across[0]} and "):
        warn_of_repeats(pairs, parts)


def test_answers_case_and_blanks_do_not_set_pairs_apart() -> None:
    pair = ct.PromptPair(id="a", base="The nurse", counterfactual="The man", answers=(" she", " he"))
    other = ct.PromptPair(id="b", base="the  nurse ", counterfactual="The man", answers=(" her",))
    parts = (frozenset("a"), frozenset("b"), frozenset[str]())
    with pytest.warns(RepeatedPairs, match=r"1 pairs .*\(a and b\)"):
        warn_of_repeats((pair, other), parts)
    chats = [
        ct.PromptPair(id=name, messages=({"role": "user", "content": "Who?"},), answers=("I",)) for name in ("a", "b")
    ]
    with pytest.warns(RepeatedPairs):
        warn_of_repeats(chats, parts)


def test_nothing_is_said_where_nothing_is_on_both_sides() -> None:
    grouped = tuple(replace(pair, split_group=pair.base) for pair in twins())
    other = tuple(replace(pair, counterfactual=f"{pair.counterfactual} x") for pair in twins()[len(PAIRS) :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_repeats(grouped, split_ids(grouped, 0.5, 3))
        warn_of_repeats(PAIRS + other, split_ids(PAIRS + other, 0.5, 3))
        warn_of_repeats(twins(), split_ids(twins(), 0, 3))


def test_a_problem_warns() -> None:
    task = replace(tiny.task(8), pairs=twins())
    with pytest.warns(RepeatedPairs, match="split_by"):
        ct.LanguageProblem(tiny.model("gpt2"), task, holdout=0.5, seed=3)
