"""The JSON Lines format: what is read, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cotrace.errors import InputError
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.pair_files import LINE_LIMIT_BYTES, pairs_from_records, read_pairs, record_of, schema

GOOD = {"base": "The nurse said that", "answers": [" she", " he"]}
CHAT = [{"role": "user", "content": "Who called?"}]


def write(folder: Path, *lines: object) -> Path:
    """A file of these lines; anything but text is written as JSON."""
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return file


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults(tmp_path: Path) -> None:
    (pair,) = read_pairs(write(tmp_path, GOOD))
    assert pair == PromptPair(id="1", base="The nurse said that", answers=(" she", " he"))


def test_every_field(tmp_path: Path) -> None:
    record = {
        "id": "n1",
        "base": "The nurse said that",
        "counterfactual": "The man said that",
        "answers": [" she", " he"],
        "target": 0,
        "target_counterfactual": 1,
        "label": 1,
        "favourable": 0,
        "group": "female",
        "split_group": "nurse",
        "spans": {"occupation": [4, 9]},
        "counterfactual_spans": {"occupation": [4, 7]},
        "subject": "nurse",
        "weight": 0.5,
        "meta": {"year": 2018, "deep": [None, {"a": 1}]},
    }
    (pair,) = read_pairs(write(tmp_path, record))
    assert pair.spans == {"occupation": (4, 9), "subject": (4, 9)}
    assert (pair.target_counterfactual, pair.label, pair.favourable, pair.weight) == (1, 1, 0, 0.5)
    assert (pair.group, pair.split_group, pair.subject, pair.meta) == ("female", "nurse", "nurse", record["meta"])
    kept = {name: value for name, value in record.items() if name != "target"}  # 0 is the default
    assert record_of(pair) == {**kept, "spans": {"occupation": [4, 9], "subject": [4, 9]}}
    assert set(schema()["properties"]) == set(record) | {"messages", "counterfactual_messages"}


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


def test_ids_are_line_numbers_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    assert [pair.id for pair in read_pairs(write(tmp_path, GOOD, "", "  ", {**GOOD, "id": 7}, GOOD))] == ["1", "7", "5"]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read_pairs(file)) == 2


def test_a_subject_that_occurs_twice_is_the_first_unless_its_span_is_given(tmp_path: Path) -> None:
    record = {"base": "Ann saw Ann", "answers": [" go"], "subject": "Ann"}
    first, second = read_pairs(write(tmp_path, record, {**record, "spans": {"subject": [8, 11]}}))
    assert (first.spans, second.spans) == ({"subject": (0, 3)}, {"subject": (8, 11)})


def test_chat(tmp_path: Path) -> None:
    record = {"messages": CHAT, "counterfactual_messages": CHAT, "answers": [" Ann"], "subject": "who"}
    (pair,) = read_pairs(write(tmp_path, record))
    assert (pair.base, pair.messages, pair.counterfactual_messages) == ("", tuple(CHAT), tuple(CHAT))
    assert (pair.subject, pair.spans) == ("who", {})


BAD_FIELDS = [
    ({"base": "x"}, "pairs.jsonl:2: 'answers' is a required property; give a list of continuations"),
    ({"answers": [" a"]}, "pairs.jsonl:2: needs a prompt: give 'base' (text) or 'messages' (chat)"),
    ({**GOOD, "messages": CHAT}, "pairs.jsonl:2: needs a prompt: give 'base' (text) or 'messages' (chat), one of"),
    ({**GOOD, "answers": []}, "pairs.jsonl:2: 'answers': [] should be non-empty; give a list"),
    ({**GOOD, "answers": " she"}, "pairs.jsonl:2: 'answers': ' she' is not of type 'array'; give a list"),
    ({**GOOD, "answers": [" she", 3]}, "pairs.jsonl:2: 'answers[1]': 3 is not of type 'string'; give a list"),
    ({**GOOD, "answers": [""]}, "pairs.jsonl:2: 'answers[0]': '' should be non-empty"),
    ({**GOOD, "base": ""}, "pairs.jsonl:2: 'base': '' should be non-empty; give the base prompt"),
    ({**GOOD, "base": None}, "pairs.jsonl:2: 'base': None is not of type 'string'"),
    ({**GOOD, "target": 2}, "pairs.jsonl:2: pair 2: 'target' is 2, but answers count from 0 to 1"),
    ({**GOOD, "target": -1}, "pairs.jsonl:2: 'target': -1 is less than the minimum of 0; give the index"),
    ({**GOOD, "target": True}, "pairs.jsonl:2: 'target': True is not of type 'integer'"),
    ({**GOOD, "weight": -0.1}, "pairs.jsonl:2: 'weight': -0.1 is less than the minimum of 0; give a finite number"),
    ({**GOOD, "meta": [1]}, "pairs.jsonl:2: 'meta': [1] is not of type 'object'"),
    ({**GOOD, "spans": {"all": [0, 1]}}, "pairs.jsonl:2: 'spans': 'all' does not match"),
    ({**GOOD, "spans": {"x": [0]}}, "pairs.jsonl:2: 'spans['x']': [0] is too short; give {role: [start, end]}"),
    ({**GOOD, "spans": {"x": [3, 3]}}, "pairs.jsonl:2: pair 2: spans['x'] is [3, 3], outside the prompt's 19 char"),
    ({**GOOD, "spans": {"x": [0, 99]}}, "pairs.jsonl:2: pair 2: spans['x'] is [0, 99], outside the prompt's 19 char"),
    ({**GOOD, "counterfactual_spans": {"x": [0, 1]}}, "pairs.jsonl:2: 'counterfactual' is a dependency of"),
    ({**GOOD, "subject": "Nurse"}, "pairs.jsonl:2: 'subject' is 'Nurse', which does not occur in base; copy it"),
    ({**GOOD, "subject": "nurse", "spans": {"subject": [0, 3]}}, "but spans.subject holds 'The'; give one of the two"),
    ({**GOOD, "anwers": [" a"]}, "pairs.jsonl:2: unknown field 'anwers': did you mean 'answers'? choose one of"),
    ({**GOOD, "zzz": 1}, "keep anything else under 'meta'"),
    ({"messages": [{"role": "user"}], "answers": [" a"]}, "'messages[0]': 'content' is a required property; give the"),
    ({"messages": CHAT, "answers": [" a"], "spans": {"x": [0, 1]}}, "'base' is a dependency of 'spans'"),
    (["base"], "pairs.jsonl:2: is a list, not an object"),
    (3, "pairs.jsonl:2: is a number, not an object"),
]


@pytest.mark.parametrize(("record", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, record: object, message: str) -> None:
    assert message in refusal(write(tmp_path, GOOD, record, GOOD))


BAD_LINES = [
    ('{"base": "x", ', "pairs.jsonl:3: not JSON at column"),
    ('{"base": "x', "pairs.jsonl:3: not JSON at column 10: Unterminated string; each line must be"),
    ('{"target": ' + "9" * 5000 + "}", "pairs.jsonl:3: holds a number of 5,000 digits; write one of at most 100"),
    ("base: x", "pairs.jsonl:3: not JSON at column 1"),
    ('{"base": "x", "base": "y", "answers": [" a"]}', "pairs.jsonl:3: the field 'base' stands twice in one object"),
    ('{"base": "x", "answers": [" a"], "weight": NaN}', "pairs.jsonl:3: NaN is not a JSON number"),
    ('{"base": "x", "answers": [" a"], "weight": 1e999}', "pairs.jsonl:3: holds a number beyond 1.8e308"),
    ('{"base": "x\\ud800", "answers": [" a"]}', "pairs.jsonl:3: holds half of a surrogate pair"),
    ("[" * 100_000, "pairs.jsonl:3: nested too deeply"),
    (
        json.dumps({**GOOD, "meta": {"x": "y" * LINE_LIMIT_BYTES}}),
        "pairs.jsonl:3: the line is longer than 1048576 bytes",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=lambda value: value[:20])
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    assert message in refusal(write(tmp_path, GOOD, GOOD, line))


def test_a_long_line_within_the_limit_is_read(tmp_path: Path) -> None:
    filler = LINE_LIMIT_BYTES - len(json.dumps({**GOOD, "meta": {"x": ""}}))
    assert len(read_pairs(write(tmp_path, {**GOOD, "meta": {"x": "y" * filler}}))) == 1


def test_the_file_itself(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none.jsonl")
    assert "pairs.jsonl: the file is empty" in refusal(write(tmp_path, "", "   "))
    assert "pairs.jsonl:3: the id 'a' stands at pairs.jsonl:1 already" in refusal(
        write(tmp_path, {**GOOD, "id": "a"}, GOOD, {**GOOD, "id": "a"})
    )
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b'\n{"base": "caf\xe9"}\n')
    assert "latin.jsonl:2: not UTF-8: byte 0xe9 at column 14; save the file as UTF-8 text" in refusal(latin)


def test_records_and_frames_give_the_same_pairs(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {**GOOD, "id": "a", "weight": 2.0, "spans": {"x": (4, 9)}},
        {**GOOD, "id": "b", "target": 1, "group": "g", "answers": (" x", " y")},
    ]
    read = read_pairs(write(tmp_path, *records))
    assert pairs_from_records(records) == read
    assert pairs_from_records(pd.DataFrame(records)) == read
    assert Task.from_records(pd.DataFrame(records)).pairs == read


def test_empty_cells_mean_absent() -> None:
    frame = pd.DataFrame({"base": ["a", "b"], "answers": [[" x"], [" y"]], "label": [0, None], "group": [None, "g"]})
    frame["weight"] = [np.nan, 3.0]
    first, second = pairs_from_records(frame)
    assert (first.id, first.label, first.group, first.weight) == ("1", 0, None, 1.0)
    assert (second.id, second.label, second.group, second.weight) == ("2", None, "g", 3.0)


def test_numpy_values_are_taken_as_their_python_values() -> None:
    record = {"base": "a b", "answers": np.array([" x", " y"]), "target": np.int64(1), "spans": {"r": np.array([0, 1])}}
    (pair,) = pairs_from_records([record])
    assert (pair.answers, pair.target, pair.spans) == ((" x", " y"), 1, {"r": (0, 1)})


@pytest.mark.parametrize("empty", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_an_empty_cell_is_an_absent_field_in_frames_and_in_their_dicts(empty: object) -> None:
    rows = [
        {**GOOD, "id": "a", "group": "x"},
        {**GOOD, "id": empty, "group": empty, "split_group": empty, "weight": empty},
    ]
    pairs = pairs_from_records(rows)
    assert pairs == pairs_from_records(pd.DataFrame(rows)) == pairs_from_records(pd.DataFrame(rows).to_dict("records"))
    assert [(pair.id, pair.group, pair.split_group, pair.weight) for pair in pairs] == [
        ("a", "x", None, 1.0),
        ("2", None, None, 1.0),
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([GOOD, {"base": "x"}], "record 2: 'answers' is a required property"),
        ([{**GOOD, "id": "2"}, GOOD], "record 2: the id '2' stands at record 1 already"),
        ([{**GOOD, "weight": float("inf")}], "record 1: 'weight': inf is greater than the maximum"),
        ([{**GOOD, "answers": float("nan")}], "record 1: 'answers' is a required property"),
        (pd.DataFrame({"prompt": ["x"]}), "record 1: unknown field 'prompt'"),
    ],
)
def test_bad_records_are_named_by_place(records: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        pairs_from_records(records)
    assert message in str(caught.value)


GAPS = {
    "float": pd.Series([1, None, 12], dtype="float64"),
    "float32": pd.Series([1, None, 12], dtype="float32"),
    "nullable": pd.Series([1, None, 12], dtype="Int64"),
    "nullable float": pd.Series([1, None, 12], dtype="Float64"),
    "numpy scalars": pd.Series([np.int64(1), None, np.float64(12)], dtype="object"),
    "NA": pd.Series([1, pd.NA, "12"], dtype="object"),
    "categories": pd.Series([1.0, None, 12.0]).astype("category"),
}


@pytest.mark.parametrize("kind", GAPS)
def test_a_gap_in_a_column_of_whole_numbers_changes_no_other_name(kind: str) -> None:
    frame = pd.DataFrame({"base": list("abc"), "answers": [[" x"], [" y"], [" z"]]})
    frame["group"] = frame["split_group"] = frame["id"] = GAPS[kind]
    pairs = pairs_from_records(frame)
    assert [pair.id for pair in pairs] == ["1", "2", "12"]
    assert [pair.group for pair in pairs] == [pair.split_group for pair in pairs] == ["1", None, "12"]
    frame["target"] = pd.Series([0, None, 0], dtype="float64")
    assert [type(pair.target) for pair in pairs_from_records(frame)] == [int, int, int]


@pytest.mark.parametrize("value", [True, np.bool_(True), 0.5, np.float32(0.5), pd.Timestamp("2024-01-01")])
def test_what_is_no_name_is_refused(value: Any) -> None:
    for records in ([{"base": "a", "answers": [" x"], "group": value}], None):
        given = pd.DataFrame({"base": ["a"], "answers": [[" x"]], "group": [value]}) if records is None else records
        with pytest.raises(InputError, match=r"record 1: 'group': .*; give the subgroup as text"):
            pairs_from_records(given)


def test_a_float_that_lost_digits_is_no_name_and_a_double_column_no_frame() -> None:
    with pytest.raises(InputError, match=r"record 1: .*may have been rounded; give ids and groups as text"):
        pairs_from_records([{"base": "a", "answers": [" x"], "id": float(2**53 + 2)}])
    assert pairs_from_records([{"base": "a", "answers": [" x"], "id": 2**53 + 1}])[0].id == str(2**53 + 1)
    frame = pd.DataFrame([["a", [" x"], "b"]], columns=["base", "answers", "base"])
    with pytest.raises(InputError, match="several columns 'base'"):
        pairs_from_records(frame)


def test_no_records_make_no_task() -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        Task.from_records([])


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
json_value = st.recursive(st.none() | st.booleans() | st.integers() | text, lambda inner: st.lists(inner, max_size=3))


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """What a PromptPair is made of; it is made in the test, as its checked constructor draws random numbers itself."""
    base, answers = draw(text), tuple(draw(st.lists(text, min_size=1, max_size=3)))
    index = st.none() | st.integers(0, len(answers) - 1)
    counterfactual = draw(st.none() | text)
    start = draw(st.integers(0, len(base) - 1))
    return {
        "id": draw(text),
        "base": base,
        "counterfactual": counterfactual,
        "answers": answers,
        "target": draw(st.integers(0, len(answers) - 1)),
        "target_counterfactual": draw(index),
        "label": draw(index),
        "favourable": draw(index),
        "group": draw(st.none() | text),
        "split_group": draw(st.none() | text),
        "spans": draw(
            st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}x", fullmatch=True), st.just((start, len(base))))
        ),
        "counterfactual_spans": {"subject": (0, len(counterfactual))} if counterfactual else {},
        "weight": draw(st.floats(0, 1e9)),
        "meta": draw(st.dictionaries(text, json_value, max_size=3)),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.lists(fields(), min_size=1, max_size=4, unique_by=lambda pair: pair["id"]))
def test_a_pair_survives_the_way_to_a_file_and_back(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    originals = [PromptPair(**each) for each in drawn]
    file = write(tmp_path, *map(record_of, originals))
    assert read_pairs(file) == tuple(originals)
    assert pairs_from_records(map(record_of, originals)) == tuple(originals)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "any.jsonl"
    file.write_bytes(data)
    assert "any.jsonl" in refusal(file)
