"""MIB's tasks in their published form, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotrace import tasks
from cotrace.errors import InputError

IOI = {
    "prompt": "Then Ann and Bob went home. Bob gave a book to",
    "metadata": {"indirect_object": "Ann", "subject": "Bob", "random_c": "Eve"},
    "s2_io_flip_counterfactual": {"prompt": "Then Ann and Bob went home. Ann gave a book to"},
    "random_names_counterfactual": {"prompt": "Then Eve and Tim went home. Tim gave a book to"},
}
SUM = {
    "prompt": "The sum of 12 and 13 is ",
    "operator": "+",
    "label": 25,
    "random_counterfactual": {"prompt": "The sum of 31 and 17 is ", "label": 48},
}
CHOICE = {
    "prompt": "The box is red. What is it?\nA. red\nB. blue\nAnswer:",
    "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "The box is red. What is it?\nX. red\nY. blue\nAnswer:",
        "choices": {"label": ["X", "Y"], "text": ["red", "blue"]},
        "answerKey": 0,
    },
}


def saved(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "answers", "counterfactual"),
    [
        (IOI, (" Ann", " Bob"), IOI["s2_io_flip_counterfactual"]["prompt"]),  # type: ignore[index]
        (SUM, ("25", "48"), "The sum of 31 and 17 is "),
        (CHOICE, ("A", "X"), CHOICE["symbol_counterfactual"]["prompt"]),  # type: ignore[index]
    ],
    ids=["ioi", "arithmetic", "choice"],
)
def test_a_row_is_a_pair(tmp_path: Path, row: Any, answers: tuple[str, str], counterfactual: str) -> None:
    task = tasks.load("mib", data=saved(tmp_path / "rows.jsonl", row))
    (pair,) = task.pairs
    assert (pair.base, pair.counterfactual, pair.answers, pair.target) == (row["prompt"], counterfactual, answers, 0)
    assert (task.metric, task.encoding, task.name) == ("logit_diff", "alone", "mib_rows")
    (tmp_path / "list.json").write_text(json.dumps([row]))
    assert tasks.mib(tmp_path / "list.json").pairs == task.pairs


def test_other_counterfactuals_operators_and_rows_that_lack_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "ioi.jsonl", IOI, {**IOI, "random_names_counterfactual": None})
    task = tasks.mib(path, counterfactual="random_names_counterfactual")
    assert len(task.pairs) == 1
    assert task.pairs[0].counterfactual == "Then Eve and Tim went home. Tim gave a book to"
    assert task.skipped[0][0] == "row 2"
    sums = saved(tmp_path / "sums.jsonl", SUM, {**SUM, "operator": "-", "label": 1})
    assert [pair.answers for pair in tasks.mib(sums, operator="-").pairs] == [("1", "48")]
    same = {**SUM, "random_counterfactual": {**SUM["random_counterfactual"], "label": 25}}  # type: ignore[dict-item]
    assert "both answers are the same" in tasks.mib(saved(tmp_path / "same.jsonl", SUM, same)).skipped[0][1]


def test_refusals(tmp_path: Path) -> None:
    path = saved(tmp_path / "ioi.jsonl", IOI)
    for make, words in (
        (lambda: tasks.mib(path, counterfactual="random_name_counterfactual"), "did you mean 'random_names"),
        (lambda: tasks.mib(saved(tmp_path / "a.jsonl", {"text": "x"})), "its rows are of no MIB task: they have text"),
        (lambda: tasks.mib(saved(tmp_path / "b.jsonl")), "holds no rows of a MIB task"),
        (lambda: tasks.mib(saved(tmp_path / "c.jsonl", SUM), operator="*"), r"no row .* and operator \*"),
    ):
        with pytest.raises(InputError, match=words):
            make()
