"""The page against what is known of its inputs: sets, effects, thinning, caveats, and no text too many."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cotrace as ct
from cotrace import report
from cotrace.components import ComponentSpace
from cotrace.errors import InputError
from cotrace.report.page import Example, Examples, Piece, ReportInputs, examples_of, report_html
from cotrace.report.page._caveats import caveats
from cotrace.report.page._panels import rows_of
from cotrace.report.page._run_summary import batches_words
from cotrace.report.page._size_effects import MOST_SIZES, Effects, blocks_data, search_data, spread, stops_of
from cotrace.report.page.inputs import compared
from cotrace.report.page.page import json_block
from cotrace.results import Frontier
from cotrace.results.effects import EffectTable
from tests.browser.hostile import TEXTS
from tests.browser.hostile import inputs as hostile
from tests.report.frontiers import SETS, frontier, space
from tests.report.judged import evaluation


def data_of(content: bytes, name: str = "data") -> Any:
    """What the page hands to its script."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', content.decode(), re.DOTALL)
    assert found
    return json.loads(found[1])


def linear(weights: list[float], sets: list[list[int]]) -> Frontier:
    """A frontier whose archive holds these sets, on two pairs; an effect is the sum of its members' weights."""
    chosen = np.zeros((len(sets), 6), bool)
    for row, members in zip(chosen, sets, strict=True):
        row[members] = True
    effects = chosen @ np.array(weights)
    table = EffectTable.of(chosen, np.stack([effects + 1, effects - 1], axis=1))
    return replace(frontier(SETS, [1.0, 2.0, 3.0]), effects=table)


def test_write_needs_a_frontier_alone(tmp_path: Path) -> None:
    path = report.write(frontier(SETS, [1.0, 2.0, 3.0]), tmp_path / "report.html")
    text = path.read_text()
    assert "The result was not judged" in text
    assert "3 of 6" in text
    assert text.count("Not computed:") == 4  # examples, what they do, interactions, side effects
    data = data_of(path.read_bytes())
    assert data["searches"][0]["sizes"] == [1, 2, 3]
    with pytest.raises(InputError, match="cannot write"):
        report.write(frontier(SETS, [1.0, 2.0, 3.0]), tmp_path / "missing" / "report.html")


def test_page_names_nothing_to_load() -> None:
    text = report_html(hostile()).decode()
    own = text[: text.index('<script type="application/json"')]
    tags = re.findall(r"<[a-z][^>]*>", own)
    assert len(tags) > 300
    links = [link for tag in tags for link in re.findall(r'\s(?:src|href|action|srcset|poster|data)="([^"]*)"', tag)]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "url(" not in own.replace("url(#circuit-", "")  # the ends of arrows, in the page itself
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy[1]
    assert "unsafe-inline" not in policy[1].partition("style-src")[0]


def test_same_inputs_give_the_same_bytes() -> None:
    assert report_html(hostile()) == report_html(hostile())


def test_json_cannot_end_its_element() -> None:
    block = str(json_block({"texts": TEXTS}))
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {
        "texts": [
            text.replace("\u202e", r"\u202e")
            .replace("\u202c", r"\u202c")
            .replace("\u2028", r"\u2028")
            .replace("\u2029", r"\u2029")
            .replace("\x07", r"\x07")
            for text in TEXTS
        ]
    }


def test_redacted_page_has_ids_and_no_text() -> None:
    words = [f"secret{i}" for i in range(6)]
    pairs = tuple(
        Example(
            f"pair-{i}",
            *compared(Piece(f"{word} a", (8, 9)), Piece(f"{word} b", (8, 9))),
            (f" {word}x",),
            fields={"group": "g", "kind": word},
        )
        for i, word in enumerate(words)
    )
    one = frontier(SETS, [1.0, 2.0, 3.0])
    chosen = np.zeros((3, 6), bool)
    for row, names in zip(chosen, SETS, strict=True):
        row[list(one.space.indices(map(ct.Component.parse, names)))] = True
    tables = EffectTable.of(chosen, np.ones((3, 4))), EffectTable.of(chosen, np.ones((3, 2)))
    one = replace(one, effects=tables[0], effects_heldout=tables[1])
    inputs = ReportInputs((one,), examples=Examples(pairs[:4], pairs[4:]))
    open_, closed = (report_html(replace(inputs, redact=redact)).decode() for redact in (False, True))
    assert all(word in open_ for word in words)
    assert not any(word in closed for word in words)
    assert all(f"pair-{i}" in closed for i in range(6))
    assert "texts are left out" in closed


def test_steps_of_the_slider_give_the_sets_back() -> None:
    sets = [["L0.head1"], ["L0.head2", "L1.head0"], ["L0.head0", "L0.head2", "L1.head0"], ["L1.head2"] * 1]
    one = frontier(sets[:3], [1.0, 2.0, 3.0])
    data = search_data(stops_of(ReportInputs((one,)))[0])
    found: set[int] = set()
    for step, names in zip(data["steps"], sets, strict=False):
        found = (found - set(step["out"])) | set(step["in"])
        assert sorted(found) == list(one.space.indices(map(ct.Component.parse, names)))


def test_names_in_the_page_come_from_blocks() -> None:
    mixed = space("L0.head0", "L0.head1", "L2.neuron5", "L2.neuron9", "L0.mlp", "L1.head3@subject")
    names = []
    for block in blocks_data(mixed):
        units = block["units"]
        numbers = units.get("list") or range(units["first"], units["first"] + units["count"])
        role = "" if block["role"] == "all" else f"@{block['role']}"
        names += [f"L{block['layer']}.{block['tag']}{'' if block['whole'] else unit}{role}" for unit in numbers]
    assert names == mixed.names


def test_many_sizes_are_thinned_and_the_page_says_so() -> None:
    wide = ComponentSpace.parse([f"L0.head{i}" for i in range(300)])
    sets = [[f"L0.head{i}" for i in range(k)] for k in range(1, 301)]
    inputs = ReportInputs((frontier(sets, [float(k) for k in range(1, 301)], space=wide),))
    stops = stops_of(inputs)[0]
    assert len(stops.selections) <= MOST_SIZES + 1
    assert {1, 300, inputs.chosen.k} <= {one.k for one in stops.selections}
    assert f"the slider stops at {len(stops.selections)} of 300 sizes" in report_html(inputs).decode()


def test_spread_keeps_both_ends_and_what_is_asked_for() -> None:
    assert spread(5, 10) == [0, 1, 2, 3, 4]
    places = spread(1000, 12, [500, 2000])
    assert places == sorted(set(places))
    assert {0, 500, 999} <= set(places)
    assert len(places) <= 13


def test_rows_hold_effects_alone_and_losses_of_the_archive() -> None:
    weights = [5.0, 1.0, 2.0, 3.0, 0.5, 0.25]
    sets = [[1, 2, 3], [2, 3], [1, 3], [1, 2], [0], [3], [1]]
    rows, missing = rows_of(ReportInputs((linear(weights, sets),)))
    by_name = {row.name: row for row in rows}
    assert missing == 0
    assert {name: row.alone for name, row in by_name.items() if row.alone is not None} == {
        "L0.head0": 5.0,
        "L1.head0": 3.0,
        "L0.head1": 1.0,
    }
    assert {name: row.leaves for name, row in by_name.items() if row.leaves is not None} == {
        "L0.head1": 1.0,
        "L0.head2": 2.0,
        "L1.head0": 3.0,
    }
    assert {row.name: (row.first_k, row.share) for row in rows if row.first_k} == {
        "L0.head1": (1, pytest.approx(2 / 3)),
        "L0.head2": (2, 1.0),
        "L1.head0": (2, 1.0),
    }


def test_a_shuffled_space_is_shown_by_place_and_says_the_same() -> None:
    weights, sets = [5.0, 1.0, 2.0, 3.0, 0.5, 0.25], [[1, 2, 3], [2, 3], [1, 3], [1, 2], [0], [3], [1]]
    ordered, order = linear(weights, sets), [2, 4, 0, 5, 1, 3]
    chosen = np.zeros((len(sets), 6), bool)
    for row, members in zip(chosen, sets, strict=True):
        row[members] = True
    effects = chosen @ np.array(weights)
    shuffled = replace(
        ordered,
        space=ComponentSpace(tuple(ordered.space[i] for i in order)),
        effects=EffectTable.of(chosen[:, order], np.stack([effects + 1, effects - 1], axis=1)),
    )
    assert len(shuffled.space.blocks) == 6
    page = report_html(ReportInputs((shuffled,)))
    assert len(data_of(page)["blocks"]) == 2
    assert data_of(page) == data_of(report_html(ReportInputs((ordered,))))
    assert rows_of(ReportInputs((shuffled,))) == rows_of(ReportInputs((ordered,)))


def test_effects_and_subgroups_are_those_of_the_archive() -> None:
    one = linear([5.0, 1.0, 2.0, 3.0, 0.5, 0.25], [[1], [2, 3], [1, 2, 3]])
    pairs = tuple(Example(name, weight=weight, fields={"group": name}) for name, weight in (("a", 3.0), ("b", 1.0)))
    inputs = ReportInputs((replace(one, selections=one.selections),), examples=Examples(pairs))
    effects = Effects(inputs, stops_of(inputs)[0])
    assert effects.tables["training"].tolist() == [[2.0, 0.0], [6.0, 4.0], [7.0, 5.0]]
    whole, first, second = effects.data()["subgroups"]
    assert whole["mean"] == [1.5, 5.5, 6.5]  # weights 3 : 1
    assert (first["mean"], second["mean"]) == ([2.0, 6.0, 7.0], [0.0, 4.0, 5.0])
    assert whole["moved"] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"summary": "The 95 % interval -1 .. +1 covers 0: these pairs"}, "covers 0"),
        ({"heldout": [None] * 3, "full_effect_heldout": None}, "Nothing was held out"),
        ({"heldout": [0.1, 0.2, 0.3]}, "part of what the search found is chance"),
        ({"metric": "odds_ratio"}, "no upper bound"),
        ({"infeasible_sizes": (4,)}, "keeps the constraints was found at k = 4"),
        ({"mode": "keep"}, "is enough to keep"),
    ],
)
def test_caveats_follow_from_the_run(changes: dict[str, Any], words: str) -> None:
    plain = ReportInputs((frontier(SETS, [1.0, 2.0, 3.0], heldout=[1.0, 2.0, 3.0]),))
    assert not any(words in one.text for one in caveats(plain))
    found = ReportInputs((frontier(SETS, [1.0, 2.0, 3.0], **({"heldout": [1.0, 2.0, 3.0]} | changes)),))
    assert any(words in one.text for one in caveats(found))


def test_caveats_name_donors_and_refused_pairs() -> None:
    record = {"pairs_refused": 3, "pairs_searched": 5, "pairs_heldout": 2}
    inputs = ReportInputs((frontier(SETS, [1.0, 2.0, 3.0]),), config={"donors": "zero", "record": record})
    texts = " ".join(one.text for one in caveats(inputs))
    assert "3 of 10 pairs" in texts
    assert "'zero'" in texts


def test_pieces_give_their_text_back_with_the_changes_marked() -> None:
    one, other = compared(Piece("the nurse ran", (3, 9, 13)), Piece("the old pilot ran", (3, 7, 13, 17)))
    assert list(one.spans()) == [("the", False), (" nurse", True), (" ran", False)]
    assert list(other.spans()) == [("the", False), (" old pilot", True), (" ran", False)]
    assert "".join(text for text, _ in Piece("whole").spans()) == "whole"


def test_examples_are_the_problem_s_in_its_order(tiny_folder: Path, pairs_file: Path) -> None:
    task = ct.Task.from_jsonl(pairs_file)
    problem = ct.LanguageProblem(ct.load_model(str(tiny_folder)), task, holdout=0.25, direction="maximise")
    found = examples_of(problem)
    assert [one.id for one in found.training] == problem.training.ids
    assert problem.heldout is not None
    assert [one.id for one in found.heldout] == problem.heldout.ids
    one = found.training[0]
    source = next(pair for pair in task.pairs if pair.id == one.id)
    assert one.base.text == source.base
    assert one.donor is not None
    assert one.donor.text == source.counterfactual
    assert [text.strip() for text, changed in one.base.spans() if changed] == [source.id.split("-")[0]]
    assert [text.strip() for text, changed in one.donor.spans() if changed] == [source.id.split("-")[1]]
    assert Examples.from_json(found.to_json()) == found


def test_noise_marks_the_subject(tiny_folder: Path) -> None:
    rows = [{"base": f"the {job} said that", "subject": job, "answers": [" she", " he"]} for job in ("pilot", "nurse")]
    task = ct.Task.from_records(rows)
    problem = ct.LanguageProblem(
        ct.load_model(str(tiny_folder)), task, donors="noise=0.5@subject", holdout=0, direction="maximise"
    )
    marked = [[text.strip() for text, changed in one.base.spans() if changed] for one in examples_of(problem).training]
    assert marked == [["pilot"], ["nurse"]]
    assert all(one.donor is None for one in examples_of(problem).training)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"training": [{"id": 1}], "heldout": [], "refused": []}', b"\xff"]
)
def test_examples_of_another_form_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"is not what a run writes|not JSON"):
        Examples.from_json(content)


def test_material_is_of_one_question() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="one question"):
        ReportInputs((one, replace(one, metric="nll")))
    with pytest.raises(InputError, match="at least one selection"):
        ReportInputs(())


def test_searches_that_found_nothing_are_left_out() -> None:
    empty = frontier([], [], search="pgbct")
    text = report_html(ReportInputs((empty, frontier(SETS, [1.0, 2.0, 3.0])))).decode()
    assert "The frontier of pursuit as a table" in text
    assert [one["name"] for one in data_of(text.encode())["searches"]] == ["pursuit"]


def test_page_too_large_with_its_texts_is_made_without() -> None:
    inputs = hostile()
    assert inputs.examples is not None
    long = tuple(
        replace(one, id=f"pair {i}", answers=("y" * 70_000,) * 9) for i, one in enumerate(inputs.examples.training)
    )
    content = report_html(replace(inputs, examples=Examples(long, inputs.examples.heldout)))
    assert len(content) < 6 * 2**20
    assert "too long for the page" in content.decode()


def headings(content: bytes, table: str) -> list[str]:
    """Of the table after this sign."""
    return re.findall(
        r"<th scope=\"col\"[^>]*>(?:<button[^>]*>)?(.*?)<",
        content.decode().partition(table)[2].partition("</thead>")[0],
    )


def test_columns_without_anything_in_them_are_left_out() -> None:
    plain = frontier(SETS, [1.0, 2.0, 3.0], heldout=[None] * 3, full_effect_heldout=None)
    page = report_html(ReportInputs((plain,)))
    assert headings(page, '<table id="table">') == ["component", "in the set", "first at k", "stays"]
    assert headings(page, "Frontier table") == ["k", "effect, training pairs"]
    assert headings(page, "Cost table") == ["search", "forward-equivalents", "sizes found", "best effect", "its k"]
    known = linear([4.0, 1, 2, 3, 0.5, 0.25], [[0], [0, 1], [1], [2]])
    judged = report_html(ReportInputs((replace(known, elapsed_s=1.0),), (evaluation(known, 3),)))
    assert headings(judged, '<table id="table">')[4:] == ["effect alone", "strongest interaction"]
    assert headings(judged, "Frontier table") == ["k", "effect, training pairs", "effect, held out"]
    assert "seconds" in headings(judged, "Cost table")
    for content in (page, judged):
        rows = re.findall(r"<tr data-index.*?</tr>", content.decode(), re.DOTALL)
        assert {row.count("<td") + row.count("<th") for row in rows} == {len(headings(content, '<table id="table">'))}


def test_the_batch_plan_is_said_in_words() -> None:
    event = {"part": "training", "forward_equivalents": 1.5, "passes": 3, "batch_tokens": 512, "checkpointing": False}
    plan = {
        "tokens": 12_345,
        "batches": 2,
        "batch_tokens": 1024,
        "memory_bytes": 3 << 20,
        "disk_bytes": 2048,
        "checkpointing": "auto",
        "stored": {"memory": 3},
        "spent": {"training": 0.0},
        "packed": True,
    }
    calm = batches_words(plan | {"events": []})
    assert calm == (
        "12,345 tokens in 2 batches; at most 1,024 tokens in one forward pass; donor values: 3.0 MiB in memory, "
        "2.0 KiB on disk; activations are computed again where memory runs out; memory never ran out"
    )
    ran_out = batches_words(plan | {"events": [event, event | {"batch_tokens": 256}]})
    assert ran_out.endswith("memory ran out and batches were made smaller 2 times, at last to 256 tokens")
    assert batches_words(None) == batches_words({}) == ""
    config = {"model": "shipped", "record": {"batch_plan": plan | {"events": [event]}, "more": {"a": [1, {"b": None}]}}}
    text = report_html(ReportInputs((frontier(SETS, [1.0, 2.0, 3.0]),), config=config)).decode()
    shown = text.partition('<dl class="record">')[2].partition("</dl>")[0]
    assert "1 time, at last to 512 tokens" in shown
    assert "a 1, b" in shown
    assert not set("{}[]") & set(shown)


def test_the_title_names_the_model_in_words() -> None:
    inputs = ReportInputs((frontier(SETS, [1.0, 2.0, 3.0]),), config={"model": "shipped"})
    title = "Which attention heads in the model that ships with cotrace, together, move log odds on hand?"
    assert f"<title>{title}</title>" in report_html(inputs).decode()


def test_percentages_are_written_in_one_way() -> None:
    plain = frontier(SETS, [1.0, 2.0, 3.0])
    text = (
        report_html(ReportInputs((plain,), (evaluation(plain, 3),))).decode().partition('<script type="application')[0]
    )
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", "", text, flags=re.DOTALL)
    assert re.search(r"\d\s%", shown)
    assert not re.search(r"\d%", shown)


def test_points_that_no_line_joins_are_rings_around_what_they_lie_on() -> None:
    whole = frontier(SETS, [1.0, 2.0, 3.0])
    some = frontier([SETS[0], SETS[2]], [1.0, 3.0], search="pgbct")
    page = report_html(ReportInputs((whole, some)))
    layers = data_of(page, "specs")["charts"]["chart-frontier-training"]["layer"]
    of = {layer["transform"][0]["filter"]: layer["mark"] for layer in layers if layer["mark"]["type"] == "point"}
    assert of["datum.joined"]["filled"] is True
    assert of["!datum.joined"]["filled"] is False
    assert of["!datum.joined"]["size"] > 4 * of["datum.joined"]["size"]
    legend = page.decode().partition('aria-label="Searches"')[2].partition("</ul>")[0].split("<li>")
    assert ["<line" in one for one in legend[1:3]] == [True, False]
    assert "fill: none; stroke: var(--pgbct)" in legend[2]
