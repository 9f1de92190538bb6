"""Figures for other tools: nothing lost on the way, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

import cotrace as ct
from cotrace.errors import InputError
from cotrace.results import Table
from cotrace.results.table import csv_bytes, frame_csv, safe_cell
from cotrace.text.escape import visible, visible_in, visible_json
from tests import tiny


@pytest.fixture(scope="module")
def problem() -> ct.LanguageProblem:
    return ct.LanguageProblem(tiny.model("gpt2"), tiny.task(9), sites=["head_output", "mlp_output"], holdout=0.34)


@pytest.fixture(scope="module")
def frontier(problem: ct.LanguageProblem) -> ct.Frontier:
    return ct.search.Greedy(max_size=3)(problem)


def test_effects_are_the_problems_own(problem: ct.LanguageProblem, frontier: ct.Frontier) -> None:
    assert problem.heldout is not None
    for part, ids, heldout in ((problem, problem.training.ids, False), (problem.heldout, problem.heldout.ids, True)):
        frame = frontier.effects_frame(ids, heldout=heldout)
        assert list(frame.columns) == ["search", "k", "pair", "effect"]
        for selection in frontier:
            rows = frame[frame.k == selection.k]
            assert list(rows.pair) == list(ids)
            np.testing.assert_allclose(rows.effect, part.effects(selection).numpy(), rtol=1e-6)


def test_members_are_taken_apart(frontier: ct.Frontier) -> None:
    frame = frontier.members_frame()
    assert len(frame) == 1 + 2 + 3
    for selection in frontier:
        rows = frame[frame.k == selection.k].drop(columns=["search", "k"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, selection.to_frame())
        assert list(rows.component) == selection.components
    whole = ct.Selection.parse(["L1.mlp", "L0.head2@subject"]).to_frame()
    assert list(whole.unit.fillna(-1)) == [2, -1]
    assert list(whole.role) == ["subject", "all"]


def test_effects_that_were_not_kept_are_said_to_be_so(problem: ct.LanguageProblem, frontier: ct.Frontier) -> None:
    read = ct.Frontier.from_dict(frontier.to_dict())
    with pytest.raises(InputError, match="kept no effects of single training pairs"):
        read.effects_frame()
    with pytest.raises(InputError, match=f"2 ids for {problem.size} training pairs"):
        frontier.effects_frame(["a", "b"])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x")'])
def test_text_that_a_spreadsheet_would_run_is_shown(text: str) -> None:
    frame = pd.DataFrame({text: [text, "plain"], "effect": [-1.5, 0.1 + 0.2]})
    rows = list(csv.reader(io.StringIO(frame_csv(frame).decode(), newline="")))
    assert rows[0] == [f"'{visible(text)}", "effect"]
    assert rows[1] == [f"'{visible(text)}", "-1.5"], "numbers are not text"
    assert rows[2] == ["plain", "0.30000000000000004"], "and read back the same"


def test_csv_has_empty_cells_for_what_is_not_there() -> None:
    frame = pd.DataFrame({"unit": pd.array([1, None], dtype="Int64"), "effect": [None, 2.0]})
    assert frame_csv(frame) == b"unit,effect\r\n1,\r\n,2.0\r\n"
    assert csv_bytes(("a",), [{"a": None}]) == b'a\r\n""\r\n'
    assert safe_cell(-3) == -3


def test_a_table_is_a_frame_too() -> None:
    frame = Table("t", ("k", "name"), [("1", "a"), ("2", "b")]).to_frame()
    assert frame.to_dict("list") == {"k": ["1", "2"], "name": ["a", "b"]}


def test_no_cell_of_a_table_steers_a_terminal() -> None:
    """ESC, C1 controls and signs that turn the direction are written out; JSON keeps the value by its own escapes."""
    hostile = "a\x1b[31m\x9b1m\u202eback"
    told = csv_bytes(["id"], [{"id": hostile}]).decode()
    assert told == "id\r\na\\x1b[31m\\x9b1m\\u202eback\r\n"
    shown = visible_json(json.dumps({hostile: hostile}, ensure_ascii=False))
    assert not set("\x1b\x9b\u202e") & set(shown)
    assert json.loads(shown) == {hostile: hostile}
    assert visible_in({"a": [hostile, 3]}) == {"a": ["a\\x1b[31m\\x9b1m\\u202eback", 3]}
