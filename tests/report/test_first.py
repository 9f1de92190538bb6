"""The first screen: shares and rates by group against plain arithmetic, words in every language, what an edit did."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from string import Formatter

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError, UnknownName
from cotrace.report import plain_of
from cotrace.report.page import LANGUAGES, Edited, Plain, report_html
from cotrace.report.page.first_screen import first_screen, parts_words, percent
from cotrace.report.page.inputs import ReportInputs
from cotrace.report.page.plain import AnswerShift, GroupShift, Shift, sentences
from cotrace.results import Frontier
from cotrace.results.outcomes import Outcome
from tests import tiny

SHARE = Shift(60, 0.31, 0.58, (0.27, 0.36), (0.52, 0.63), (0.2, 0.33))


@pytest.fixture(scope="module")
def problem() -> ct.LanguageProblem:
    """Answers that all pairs share, in two groups, with a favourable answer and a gold label."""
    pairs = [
        replace(
            pair, answers=(" w1", " w2"), target=0, favourable=1, label=i % 2, group="ab"[i % 3 == 0], weight=1 + i % 2
        )
        for i, pair in enumerate(tiny.task(60).pairs)
    ]
    task = ct.Task(name="words", pairs=tuple(pairs))
    return ct.LanguageProblem(tiny.model("gpt2"), task, holdout=0.5, direction="maximise")


@pytest.fixture(scope="module")
def frontier(problem: ct.LanguageProblem) -> Frontier:
    return ct.search.TopK(max_size=3)(problem)


@pytest.fixture(scope="module")
def plain(problem: ct.LanguageProblem, frontier: Frontier) -> Plain:
    found = plain_of(problem, frontier, frontier.at(2))
    assert found is not None
    return found


def inputs(frontier: Frontier, plain: Plain | None, **more: object) -> ReportInputs:
    made = ReportInputs((frontier,), **more)  # type: ignore[arg-type]
    if plain is not None:
        plain = replace(plain, components=tuple(made.chosen.components))
    return replace(made, plain=plain)


def test_shares_and_rates_are_those_of_plain_arithmetic(
    problem: ct.LanguageProblem, frontier: Frontier, plain: Plain
) -> None:
    """Two answers: their share is a logistic function of the difference of scores; rates are counted pair by pair."""
    unseen = problem.heldout
    assert unseen is not None
    both = [unseen.scores(ct.Selection(members=())), unseen.scores(frontier.at(2).components)]
    known = {pair.id: pair for pair in problem.source_task.pairs}
    pairs = [known[name] for name in unseen.ids]
    weight = np.array([pair.weight for pair in pairs])
    second = [torch.sigmoid(table[:, 1] - table[:, 0]).numpy() for table in both]
    share = {one.answer: one.share for one in plain.answers}
    assert share[" w2"].before == pytest.approx(np.average(second[0], weights=weight))
    assert share[" w2"].after == pytest.approx(np.average(second[1], weights=weight))
    assert share[" w1"].after == pytest.approx(1 - share[" w2"].after)
    assert plain.odds is not None
    odds = [(table[:, 0] - table[:, 1]).numpy() for table in both]
    assert plain.odds.change == pytest.approx(np.average(odds[1] - odds[0], weights=weight))
    for row in plain.groups:
        some = [i for i, pair in enumerate(pairs) if row.group in ("", pair.group)]
        assert row.rate is not None
        assert row.accuracy is not None
        assert row.accuracy.pairs == len(some)
        for table, rate, right in zip(
            both, (row.rate.before, row.rate.after), (row.accuracy.before, row.accuracy.after), strict=True
        ):
            picked = [int(table[i, 1] > table[i, 0]) for i in some]
            assert rate == pytest.approx(np.average(picked, weights=weight[some]))
            hits = [one == pairs[i].label for one, i in zip(picked, some, strict=True)]
            assert right == pytest.approx(np.average(hits, weights=weight[some]))
    assert [row.group for row in plain.groups] == ["", "a", "b"]
    assert (plain.groups[2].rate.before_interval is None) == (plain.groups[2].rate.pairs < 10)  # type: ignore[union-attr]


def test_plain_figures_cost_nothing_and_come_back_from_json(
    problem: ct.LanguageProblem, frontier: Frontier, plain: Plain
) -> None:
    before = problem.cost.forward_equivalents
    assert plain_of(problem, frontier, frontier.at(2)) == plain
    assert problem.cost.forward_equivalents == before
    assert Plain.from_json(plain.to_json().decode()) == plain
    for text in (
        "{}",
        '{"answers": [], "groups": [], "components": [], "search": "", "part": "", "odds": null}',
        "[1]",
    ):
        with pytest.raises(InputError, match=r"plain\.json"):
            Plain.from_json(text)


def test_pairs_with_one_answer_have_its_probability_and_no_rates() -> None:
    task = tiny.task(8)
    task = replace(task, pairs=tuple(replace(pair, answers=pair.answers[:1], target=0) for pair in task.pairs))
    problem = ct.LanguageProblem(tiny.model("gpt2"), task, holdout=0, direction="maximise")
    found = ct.search.TopK(max_size=1)(problem)
    plain = plain_of(problem, found, found.at(1))
    assert plain is not None
    assert plain.groups == ()
    assert plain.odds is None
    assert plain.spoken.share.before == pytest.approx(problem.scores(ct.Selection(members=())).exp().mean().item())


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "the share of \u201che\u201d among the answers rises from 31\u00a0% to 58\u00a0%."),
        ("de", "steigt der Anteil von \u201ehe\u201c an den Antworten von 31\u00a0% auf 58\u00a0%."),
    ],
)
def test_the_answer_is_told_in_plain_words(frontier: Frontier, language: str, words: str) -> None:
    falls = Shift(60, 0.69, 0.42, (0.6, 0.7), (0.37, 0.48), (-0.33, -0.2))
    plain = Plain("topk", (), "heldout", (AnswerShift(" she", falls), AnswerShift(" he", SHARE)), ())
    asked, found, sure, limits = first_screen(inputs(frontier, plain, language=language))
    assert words in found.lines[0]
    assert "12" in asked.lines[0]
    assert any("52\u00a0%" in line and "63\u00a0%" in line for line in sure.lines)
    assert len(limits.lines) >= 2
    assert asked.head == sentences(language)["asked"]


def test_what_may_be_chance_is_said_so(frontier: Frontier) -> None:
    unsure = replace(SHARE, change_interval=(-0.1, 0.4))
    plain = Plain("topk", (), "heldout", (AnswerShift(" he", unsure),), ())
    chance = sentences("en")["chance"]
    assert chance in first_screen(inputs(frontier, plain))[2].lines
    shown = Plain("topk", (), "heldout", (AnswerShift(" he", SHARE),), ())
    assert chance not in first_screen(inputs(frontier, shown))[2].lines
    few = Plain("topk", (), "heldout", (AnswerShift(" he", Shift(6, 0.3, 0.5)),), ())
    assert sentences("en")["interval_none"] in first_screen(inputs(frontier, few))[2].lines


def test_figures_of_another_set_are_not_told_of_this_one(frontier: Frontier, plain: Plain) -> None:
    other = replace(inputs(frontier, None), plain=replace(plain, components=("L0.head0",)))
    assert "log odds" in first_screen(other)[1].lines[0]


def test_every_language_has_the_same_sentences() -> None:
    english = sentences("en")
    for language in LANGUAGES:
        table = sentences(language)
        assert set(table) == set(english)
        for key, text in table.items():
            gaps = [{name for _, name, _, _ in Formatter().parse(one) if name} for one in (text, english[key])]
            assert gaps[0] == gaps[1], key
    with pytest.raises(UnknownName, match="choose one of de, en"):
        sentences("fr")


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.314, "31 %"), (0.0, "0 %"), (1.0, "100 %"), (0.004, "0.4 %"), (0.0001, "< 0.1 %"), (0.9996, "> 99.9 %")],
)
def test_per_cents_never_round_to_none_or_all(share: float, words: str) -> None:
    assert percent(share).replace("\u00a0", " ") == words


def test_the_page_shows_groups_probabilities_and_the_edit(frontier: Frontier) -> None:
    rate = Shift(33, 0.7, 0.5, (0.6, 0.8), (0.4, 0.6), (-0.3, -0.1))
    rows = (GroupShift("", SHARE, SHARE), GroupShift("<b>women</b>", rate, rate))
    plain = Plain("topk", (), "heldout", (AnswerShift(" he", SHARE),), rows, Shift(60, -1.0, 0.5))
    outcome = Outcome(task="words", metric="accuracy", pairs=60, before=0.9, after=0.8, change_interval=(-0.2, -0.01))
    edited = Edited(4, "scale=0.2", True, (outcome,), 1e-6)
    assert Edited.from_json(edited.to_json().decode()) == edited
    html = report_html(inputs(frontier, plain, edited=edited, language="de")).decode()
    assert '<html lang="de">' in html
    groups = html.partition('id="groups"')[2].partition("</section>")[0]
    assert "&lt;b&gt;women&lt;/b&gt;" in groups
    cells = re.sub(r"<[^>]+>|\s+", " ", groups)
    for words in ("33", "70\u00a0%", "[60\u00a0%, 80\u00a0%]", "-20.0", "[-30.0, -10.0]"):
        assert words in cells or words.replace("\u00a0", " ") in cells, words
    edit = html.partition('id="edit"')[2].partition("</section>")[0]
    assert "accuracy on words" in edit
    assert "-0.1" in edit
    assert "+1.5" in html.partition('id="answer"')[2].partition("</section>")[0], "log-odds beside shares"
    assert 'id="groups"' not in report_html(inputs(frontier, None)).decode()


def test_components_of_several_kinds_are_parts(frontier: Frontier) -> None:
    assert parts_words(inputs(frontier, None), sentences("en")) == "attention heads"
    assert json.loads(json.dumps(sentences("de")))["parts_other"] == "Bauteile"


def test_the_name_of_the_level_is_not_where_the_chosen_size_is_marked(frontier: Frontier) -> None:
    """The text stands at the left where the size is right of the middle, and the other way round."""
    from cotrace.report.page import charts

    for k, side in ((3, "left"), (1, "right")):
        shown = replace(frontier, selections=tuple(replace(one, effect=float(one.k == k)) for one in frontier))
        made = ReportInputs((shown,))
        assert made.chosen.k == k
        spec = charts.frontier(made, "training")
        texts = [
            one["mark"] for one in _layers(spec) if isinstance(one.get("mark"), dict) and one["mark"]["type"] == "text"
        ]
        assert {text["align"] for text in texts} == {side}


def _layers(spec: object) -> list[dict[str, object]]:
    """Every part of a chart that has a mark."""
    if isinstance(spec, dict):
        own = [spec] if "mark" in spec else []
        return own + [one for value in spec.values() for one in _layers(value)]
    return [one for value in spec for one in _layers(value)] if isinstance(spec, list) else []
