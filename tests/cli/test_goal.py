"""Constraints and further questions on the command line are those of Python; what is said before a model is loaded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cotrace as ct
from cotrace.cli.main import run
from cotrace.problem import Problem
from cotrace.runs import RunConfig
from cotrace.runs.forecast import Shape, outlook
from cotrace.runs.goal import eps_of, sides_of
from cotrace.search import Greedy

SEARCH = ["--search", "greedy", "--max-size", "2", "--evaluation", "none", "--quiet"]


@pytest.fixture(scope="module")
def bias() -> ct.LanguageProblem:
    return ct.LanguageProblem(ct.load_model("shipped"), ct.tasks.demo_bias())


def traced(out: Path, *options: str) -> dict[str, Any]:
    assert run(["trace", "--model", "shipped", "--task", "demo_bias", *options, *SEARCH, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((out / "selection.json").read_text())["frontiers"][0]
    return found


def same(found: dict[str, Any], goal: Problem) -> None:
    """Sets, effects and side values, on pairs searched and held out."""
    expected = Greedy(max_size=2)(goal)
    for one, other in zip(found["selections"], expected, strict=True):
        assert one["components"] == other.components
        assert one["effect"] == pytest.approx(other.effect, rel=1e-6)
        assert one["effect_heldout"] == pytest.approx(other.effect_heldout, rel=1e-6)
        assert one["side"] == (None if other.side is None else pytest.approx(list(other.side), abs=1e-7))


@pytest.mark.slow
def test_a_constraint_is_that_of_python(bias: ct.LanguageProblem, tmp_path: Path) -> None:
    text = ct.side_problem(bias, ct.tasks.text(model=bias.model))
    goal = ct.Constrained(bias, [ct.Constraint(text, math.log(1.004), sides="above")])
    found = traced(tmp_path / "run", "--constraint", "neutral<=0.4%")
    same(found, goal)
    free = Greedy(max_size=2)(bias)
    assert [one.components for one in free] != [one["components"] for one in found["selections"]], "it binds"
    assert run(["verify", str(tmp_path / "run"), "--examples", "4", "--quiet"]) == 0


def test_a_sum_is_that_of_python(bias: ct.LanguageProblem, tmp_path: Path) -> None:
    agreement = ct.LanguageProblem(
        bias.model, ct.tasks.demo_agreement(), sites=bias.space, metric="log_odds", direction="minimise"
    )
    found = traced(tmp_path / "run", "--plus", "0.5*demo_agreement:log_odds:minimise")
    same(found, ct.WeightedSum([(1.0, bias), (0.5, agreement)]))
    of_each_problem(tmp_path / "run", found, [bias, agreement])
    copying = ct.side_problem(bias, ct.tasks.demo_copying(), holdout=0)
    judged = ["evaluate", str(tmp_path / "run"), "--level", "quick", "--k", "2", "--side", "demo_copying", "--quiet"]
    assert run(judged) == 0
    (side,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())["side_effects"]
    assert side["change"] == pytest.approx(float(copying.value(found["selections"][1]["components"])), rel=1e-5)


def of_each_problem(folder: Path, found: dict[str, Any], problems: list[ct.LanguageProblem]) -> None:
    """``--format effects`` has every problem's own effects, of its training pairs and its held-out ones."""
    out = folder.with_suffix(".csv")
    assert run(["export", str(folder), "--format", "effects", "--out", str(out), "--quiet"]) == 0
    table = pd.read_csv(out)
    assert list(dict.fromkeys(table.problem)) == ["1*demo_bias:log_odds", "0.5*demo_agreement:log_odds"]
    assert len(table) == len(found["selections"]) * sum(one.size + one.heldout.size for one in problems)
    for one in found["selections"]:
        for problem, (_, rows) in zip(problems, table.groupby("problem", sort=False), strict=True):
            own = rows[rows.k == one["k"]].set_index("part")
            for part, pairs in (("training", problem), ("heldout", problem.heldout)):
                assert list(own.loc[part].pair) == list(pairs.ids)
                expected = pairs.effects(one["components"])
                assert own.loc[part].effect.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_a_metric_of_the_whole_set_says_why_it_has_no_effects_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traced(tmp_path / "run", "--metric", "stereotype_gap", "--direction", "minimise")
    for command, words in (
        (["export", str(tmp_path / "run"), "--format", "effects"], "one number for the whole set, .* --format csv"),
        (["evaluate", str(tmp_path / "run"), "--stability", "1"], "stability: .* leave stability out"),
        (["evaluate", str(tmp_path / "run"), "--folds", "2"], "folds: .* leave folds out"),
    ):
        capsys.readouterr()
        assert run([*command, "--quiet"]) == 2
        assert re.search(words, said := capsys.readouterr().err), said
        assert said.count("\n") == 1
    assert not (tmp_path / "run" / "evaluation.json").exists(), "nothing is evaluated before it is said"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--constraint", "neutral<1"], "write TASK:METRIC<=AMOUNT"),
        (["--constraint", "neutral<=0"], "must be above 0"),
        (["--constraint", "demo_agreemnt<=1"], "did you mean 'demo_agreement'"),
        (["--constraint", "demo_agreement:acuracy<=1"], "did you mean 'accuracy'"),
        (["--plus", "demo_agreement"], "write WEIGHT*TASK:METRIC"),
        (["--plus", "0.5*nowhere.jsonl"], "nowhere.jsonl does not exist"),
    ],
)
def test_bad_goals_are_one_line_before_a_model_is_loaded(
    options: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", "--model", "shipped", "--task", "demo_bias", *options]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1, "no line of a model being loaded"


def test_per_cent_are_of_perplexity_or_of_the_level_before(bias: ct.LanguageProblem) -> None:
    config = RunConfig(model="shipped", task="demo_bias", constraints=("neutral<=1%", "own:probability+-5%,own>=-0.25"))
    (text, share, plain), _ = sides_of(config, bias.source_task)
    assert [text.sign, share.sign, plain.sign] == ["<=", "+-", ">=-"]
    assert eps_of(text, bias) == pytest.approx(math.log(1.01))
    probability = ct.LanguageProblem(bias.model, bias.source_task, metric="probability")
    assert eps_of(share, probability) == pytest.approx(0.05 * probability.reported_base)
    assert eps_of(plain, bias) == 0.25


def test_the_outlook_counts_what_the_run_will_have(bias: ct.LanguageProblem) -> None:
    """From the configuration alone: N exactly, pairs and tokens nearly, the cost as the search predicts it."""
    config = RunConfig(model="shipped", task="demo_bias", evaluation="none")
    found = outlook(config, bias.source_task, [Greedy(max_size=3)])
    assert found is not None
    assert found.components == len(bias.space)
    assert found.pairs == pytest.approx(bias.size, abs=6)
    assert found.forward_equivalents == Greedy(max_size=3).predicted_cost(40)
    assert 0.3 < found.tokens / bias.plan.tokens < 3
    shape = Shape.of(bias.model.module.config)
    assert shape is not None
    tables = bias.model.module.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in bias.model.module.parameters() if p.ndim == 2) - tables
    assert shape.products_per_token == pytest.approx(weights, rel=0.5)
    assert found.seconds is not None
    assert "once the model is loaded" in found.words


def test_what_will_be_done_is_said_before_the_model_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "--model", "shipped", "--task", "demo_bias", "--search", "topk", "--dry-run"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("to do: ")
    assert lines[1] == "loading shipped"


def test_of_features_the_outlook_says_nothing(bias: ct.LanguageProblem) -> None:
    """How many features are active, and so N, only the model shows."""
    config = RunConfig(model="shipped", task="demo_bias", dictionaries="some/folder")
    assert outlook(config, bias.source_task, ()) is None
