"""auto-circuit's JSON prompts: what is read, and that every malformed file is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cotrace as ct
from cotrace.errors import InputError

PROMPT: dict[str, Any] = {"clean": "A b", "corrupt": "A c", "answers": [" d"], "wrong_answers": [" e", " f"]}


def written(folder: Path, data: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_prompts_become_pairs(tmp_path: Path) -> None:
    data = {"prompts": [PROMPT, PROMPT | {"answers": " d", "note": 3}], "seq_labels": ["x", "y"]}
    task = ct.tasks.load(written(tmp_path, data))
    assert task.name == "prompts"
    first, second = task.pairs
    assert (first.base, first.counterfactual, first.answers, first.target) == ("A b", "A c", (" d", " e", " f"), 0)
    assert (second.id, second.meta) == ("2", {"note": 3})


def test_several_right_answers_are_said_and_not_guessed(tmp_path: Path) -> None:
    several = PROMPT | {"answers": [" d", " g"]}
    path = written(tmp_path, {"prompts": [PROMPT, several]})
    task = ct.tasks.auto_circuit(path)
    assert [pair.id for pair in task.pairs] == ["1"]
    assert task.skipped == (("prompt 2", "it has 2 right answers; several='first' takes the first"),)
    second = ct.tasks.auto_circuit(path, several="first").pairs[1]
    assert second.answers == (" d", " e", " f")
    assert second.meta == {"right_answers": [" d", " g"]}
    with pytest.raises(InputError, match="none of 1 records can be used"):
        ct.tasks.auto_circuit(written(tmp_path, {"prompts": [several]}))
    with pytest.raises(InputError, match="choose one of first, refuse"):
        ct.tasks.auto_circuit(path, several="all")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "line 1: not JSON"),
        ([PROMPT], "holds no list 'prompts'"),
        ({"prompts": {}}, "holds no list 'prompts'"),
        ({"prompts": []}, "none of 0 records"),
        ({"prompts": ["A b"]}, r"prompts\[0\] is a str"),
        ({"prompts": [{"clean": "A", "corrupt": "B"}]}, "'answers' is missing"),
        ({"prompts": [PROMPT | {"clean": [[1.0, 2.0]]}]}, "token ids are not read"),
        ({"prompts": [PROMPT | {"clean": ""}]}, "'clean' is ''"),
        ({"prompts": [PROMPT | {"corrupt": None}]}, "'corrupt' is None"),
        ({"prompts": [PROMPT | {"answers": [0, 1]}]}, "'answers' is \\[0, 1\\]"),
        ({"prompts": [PROMPT | {"wrong_answers": []}]}, "'wrong_answers' is \\[\\]"),
        ({"prompts": [PROMPT | {"wrong_answers": [" d"]}]}, "both a right and a wrong answer"),
    ],
)
def test_malformed_files_are_one_line(tmp_path: Path, data: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as found:
        ct.tasks.auto_circuit(written(tmp_path, data))
    assert str(found.value).startswith("prompts.json")


VALUES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=3) | st.integers(), max_size=3)


@given(st.lists(st.dictionaries(st.sampled_from([*PROMPT, "other"]), VALUES), max_size=3))
def test_any_prompts_are_a_task_or_one_line(tmp_path_factory: pytest.TempPathFactory, prompts: list[Any]) -> None:
    path = written(tmp_path_factory.mktemp("any"), {"prompts": prompts})
    try:
        found = len(ct.tasks.auto_circuit(path))
    except InputError as error:
        found = str(error).count("\n")
    assert 0 <= found <= len(prompts)
