"""Refused pairs are tabulated by group, and said first where they are many or unequal."""

from dataclasses import replace

import pytest
from scipy import stats

from cotrace.batches import Refusal
from cotrace.problem import LanguageProblem
from cotrace.problem._coverage import Coverage
from cotrace.prompts import PromptPair
from tests import tiny


def coverage(counts: dict[str, tuple[int, int]]) -> Coverage:
    pairs = [
        PromptPair(id=f"{g}{i}", base="x", answers=("y",), group=g) for g, (n, _) in counts.items() for i in range(n)
    ]
    refused = [Refusal(f"{g}{i}", "why", g) for g, (_, out) in counts.items() for i in range(out)]
    return Coverage.of(pairs, refused)


def test_unequal_shares_are_those_of_the_exact_test() -> None:
    assert stats.fisher_exact([[12, 28], [1, 39]]).pvalue < 0.01 < stats.fisher_exact([[2, 38], [1, 39]]).pvalue
    assert coverage({"a": (40, 12), "b": (40, 1)}).unequal
    assert not coverage({"a": (40, 2), "b": (40, 1)}).unequal
    assert coverage({"a": (40, 12), "b": (40, 1), "c": (40, 0)}).unequal
    assert not coverage({"a": (40, 0), "b": (40, 0)}).unequal


def test_words() -> None:
    assert coverage({"a": (40, 0)}).words == ""
    assert coverage({"a": (40, 1)}).words == "1 of 40 pairs refused. "
    many = coverage({"a": (40, 12), "b": (40, 1)})
    assert many.words.startswith("13 of 80 pairs refused (a 12 of 40, b 1 of 40; the results cover only the rest)")
    assert "unequal" in many.words
    assert "30.0 %" in str(many.table())


def test_a_problem_says_first_what_it_leaves_out() -> None:
    task = tiny.task()
    longer = replace(task.pairs[0], counterfactual="w1 w2", group="minority")
    pairs = (longer, *(replace(pair, group="majority") for pair in task.pairs[1:]))
    with pytest.warns(match="1 of 6 pairs refused"):
        problem = LanguageProblem(tiny.model("gpt2"), replace(task, pairs=pairs), sites=["head_output"], holdout=0)
    assert problem.coverage.groups == {"majority": (5, 0), "minority": (1, 1)}
    assert problem.summary.startswith("1 of 6 pairs refused (majority 0 of 5, minority 1 of 1; the results cover only")
