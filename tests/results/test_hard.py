"""The figure that people read, beside the soft one: before and after, in rows, files, tables, verdict and report."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cotrace as ct
from cotrace.cli.summary import closing, comparison, verdict
from cotrace.evaluation import with_verdict
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.report.page._caveats import caveats
from cotrace.report.page.inputs import ReportInputs
from cotrace.report.page.page import page_of
from cotrace.results import Frontier
from cotrace.results.effects import HardFigure
from cotrace.results.frontier_file import COLUMNS, OLD_COLUMNS
from cotrace.runs.result_files import frontier_csv
from cotrace.search import Greedy
from tests import tiny

N = 12


def task(count: int = 24) -> Task:
    plain = tiny.task(count, answer_tokens=(1, 1))
    pairs = [replace(pair, group="ab"[i % 2], favourable=0, label=i // 2 % 2) for i, pair in enumerate(plain.pairs)]
    return replace(plain, pairs=tuple(pairs))


def by_hand(problem: LanguageProblem, ids: list[str], z: torch.Tensor, metric: str) -> float:
    """Hard accuracy or demographic parity gap on these pairs, from the scores and plain Python."""
    part = problem if ids == problem.training.ids else problem.heldout
    assert part is not None
    picked = part.scores(z).argmax(-1).tolist()
    pairs = [next(pair for pair in task().pairs if pair.id == name) for name in ids]
    if metric == "accuracy":
        return sum(p == pair.label for p, pair in zip(picked, pairs, strict=True)) / len(pairs)
    rates = []
    for group in "ab":
        own = [p == 0 for p, pair in zip(picked, pairs, strict=True) if pair.group == group]
        rates.append(sum(own) / len(own))
    return abs(rates[0] - rates[1])


@pytest.mark.parametrize("metric", ["accuracy", "demographic_parity_gap"])
def test_before_and_after_stand_in_rows_file_and_verdict(metric: str) -> None:
    p = LanguageProblem(tiny.model("gpt2"), task(), metric=metric, holdout=0.5, direction="minimise")
    frontier = Greedy(max_size=3)(p)
    found = ct.evaluate(p, frontier, k=2)
    rows = list(csv.DictReader(io.StringIO(frontier_csv([frontier]).decode())))
    assert tuple(rows[0]) == COLUMNS == (*OLD_COLUMNS, *COLUMNS[-4:])
    assert p.heldout is not None
    for selection, row in zip(frontier, rows, strict=True):
        z = torch.zeros(N)
        z[list(p.space.indices(selection.members))] = 1
        seen, unseen = ((p.training.ids, ""), (list(p.heldout.ids), "_heldout"))
        for ids, part in (seen, unseen):
            before, after = (by_hand(p, ids, mask, metric) for mask in (torch.zeros(N), z))
            assert float(row[f"reported_before{part}"]) == pytest.approx(before, abs=1e-9)
            assert float(row[f"reported{part}"]) == pytest.approx(after, abs=1e-9)
            hard = frontier.hard(selection, heldout=bool(part))
            assert hard is not None
            assert (hard.before, hard.after) == pytest.approx((before, after), abs=1e-9)
    hard = frontier.hard(frontier.at(2), heldout=True)
    assert hard is not None
    assert found.hard == replace(hard, soft=found.hard.soft if found.hard else None)
    name = metric.replace("_", " ")
    assert f"{name} goes from {hard.before:.4g} to {hard.after:.4g} on held-out pairs" in " ".join(found.verdict)
    assert hard.words in str(frontier.table())
    assert hard.words in verdict(replace(frontier, selections=(frontier.at(2),)))
    assert hard.words in str(comparison([frontier, frontier], heldout=True, hard=True))
    assert len(list(closing([frontier, frontier]))) == 5
    assert Frontier.from_dict(frontier.to_dict()).rows() == frontier.rows()
    assert ct.evaluation.Evaluation.from_dict(found.to_dict()) == found
    page = page_of(ReportInputs((frontier,), (found,))).decode()
    assert f"{hard.before:.4g} \u2192 {hard.after:.4g}" in page


def test_a_metric_that_people_read_as_it_is_has_none() -> None:
    p = LanguageProblem(tiny.model("gpt2"), task(), holdout=0.5, direction="minimise")
    frontier = Greedy(max_size=2)(p)
    assert all(row["reported"] is None is row["reported_before"] for row in frontier.rows())
    assert frontier.hard(frontier.at(1)) is None
    assert ct.evaluate(p, frontier).hard is None


@pytest.mark.parametrize(
    ("figure", "change", "disagrees"),
    [
        (HardFigure(1 / 6, 1 / 3, -0.0275), 1 / 6, True),
        (HardFigure(1 / 3, 1 / 6, -0.0275), -1 / 6, False),
        (HardFigure(1 / 3, 1 / 3, -0.0275), 0.0, False),
        (HardFigure(0.2, 0.4, 0.1, target=0.5), 0.2, False),
        (HardFigure(0.4, 0.9, 0.1, target=0.5), -0.3, True),
        (HardFigure(0.4, 0.9, None), 0.5, False),
    ],
)
def test_signs_are_compared(figure: HardFigure, change: float, disagrees: bool) -> None:
    assert figure.change == pytest.approx(change)
    assert figure.disagrees is disagrees
    assert bool(figure.caveat) is disagrees


def test_where_signs_differ_a_caveat_says_so_everywhere() -> None:
    p = LanguageProblem(tiny.model("gpt2"), task(), metric="demographic_parity_gap", holdout=0.5)
    frontier = Greedy(max_size=2)(p)
    one = replace(frontier.at(1), effect=-0.0275, effect_heldout=-0.0275, reported=1 / 3, reported_heldout=1 / 3)
    frontier = replace(frontier, selections=(one,), reported_before=1 / 6, reported_before_heldout=1 / 6)
    found = ct.evaluate(p, Greedy(max_size=1)(p))
    worse = with_verdict(replace(found, hard=HardFigure(1 / 6, 1 / 3, -0.0275)))
    words = "The soft form moves by -0.0275, but the level that people read goes the other way, from 0.1667 to 0.3333"
    assert any(words in line for line in worse.verdict)
    assert words in verdict(frontier)
    assert "0.1667 -> 0.3333 !" in str(frontier.table())
    assert any(words in caveat.text and caveat.grave for caveat in caveats(ReportInputs((frontier,), (worse,))))


def test_the_hard_figure_of_a_sum_is_the_sum_of_the_hard_figures() -> None:
    parts = [
        LanguageProblem(tiny.model("gpt2"), task(), metric=metric, holdout=0.5, direction=way)
        for metric, way in (("accuracy", "maximise"), ("demographic_parity_gap", "minimise"))
    ]
    both = ct.WeightedSum([(2.0, parts[0]), (3.0, parts[1])])
    frontier = Greedy(max_size=1)(both)
    one = frontier.at(1)
    assert frontier.reported_before == pytest.approx(2 * parts[0].reported_base - 3 * parts[1].reported_base)
    assert one.reported == pytest.approx((2 * parts[0].reported(one) - 3 * parts[1].reported(one)).item())


def test_files_of_runs_without_these_columns_are_still_read(tmp_path: Path) -> None:
    p = LanguageProblem(tiny.model("gpt2"), task(), metric="accuracy", holdout=0.5, direction="minimise")
    frontier = Greedy(max_size=2)(p)
    old = frontier.to_dict()
    for name in ("reported_before", "reported_before_heldout", "full_is_clear", "full_is_clear_heldout", "target"):
        del old[name]
    read = Frontier.from_dict(old)
    assert read.hard(read.at(1)) is None
    assert [row["effect"] for row in read.rows()] == [row["effect"] for row in frontier.rows()]
    lines = frontier_csv([read], OLD_COLUMNS).decode().splitlines()
    assert lines[0] == ",".join(OLD_COLUMNS)
