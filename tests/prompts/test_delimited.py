"""CSV and TSV: the same pairs as JSON Lines, whoever wrote the file; every bad one is one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cotrace import tasks
from cotrace.errors import InputError, UnknownName
from cotrace.prompts.pair_files import read_pairs, record_of

RECORDS: list[dict[str, Any]] = [
    {"id": "007", "base": 'She said "hi", then', "answers": [" a, b", ' "c"'], "target": 1, "group": "1"},
    {"base": "two\nlines", "counterfactual": "tab\there", "answers": [" x"], "weight": 0.5, "meta": {"n": [1, None]}},
    {"base": "The nurse", "subject": "nurse", "answers": [" y", " z"], "label": 0, "group": "g"},
    {"messages": [{"role": "user", "content": "Who?"}], "answers": ["I"], "favourable": 0},
    {"base": "a b", "spans": {"role": [0, 1]}, "answers": ["c"], "split_group": "01"},
]
TEXTS = ("id", "base", "counterfactual", "group", "split_group", "subject")
COLUMNS = list(dict.fromkeys(name for record in RECORDS for name in record))


def cell(record: dict[str, Any], name: str) -> str:
    return "" if name not in record else record[name] if name in TEXTS else json.dumps(record[name])


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".CSV"])
@pytest.mark.parametrize("writer", ["csv", "pandas", "excel"])
def test_the_pairs_are_those_of_json_lines(tmp_path: Path, ending: str, writer: str) -> None:
    delimiter = "\t" if ending == ".tsv" else ","
    path, lines = tmp_path / f"pairs{ending}", tmp_path / "pairs.jsonl"
    rows = [[cell(record, name) for name in COLUMNS] for record in RECORDS]
    if writer == "pandas":
        pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, sep=delimiter)
    else:
        encoding, end = ("utf-8-sig", "\r\n") if writer == "excel" else ("utf-8", "\n")
        with path.open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter, lineterminator=end).writerows([COLUMNS, *rows])
    lines.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert list(map(record_of, read_pairs(path))) == list(map(record_of, read_pairs(lines)))
    assert tasks.load(str(path)).pairs == read_pairs(lines)


def test_json_stands_bare_between_tabs(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text('base\tanswers\nThe nurse said that\t[" she", " he"]\n')
    (pair,) = read_pairs(tmp_path / "pairs.tsv")
    assert (pair.base, pair.answers) == ("The nurse said that", (" she", " he"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "pairs.csv: the file is empty; it needs a header"),
        ("base,answers\n", "pairs.csv: the file is empty; it needs a header"),
        ("prompt,answers\nx,[]\n", "pairs.csv:1: unknown field 'prompt': did you mean 'base'?"),
        ("base,base\nx,y\n", "pairs.csv:1: the column 'base' stands twice"),
        ("base;answers\nx;y\n", "pairs.csv:1: the cells are separated by semicolons; save the file with commas"),
        ('base,answers\nx,[" a", " b"]\n', "pairs.csv:2: has 3 cells and the header 2; put a cell"),
        ("base,answers\nx\n", "pairs.csv:2: has 1 cells and the header 2"),
        ("base,answers\nx, she\n", "pairs.csv:2: 'answers' is ' she'; write it as JSON, such as [\" she\", \" he\"]"),
        ('base,answers,target\nx,"["" a""]",one\n', "pairs.csv:2: 'target' is 'one'; write it as JSON, such as 1"),
        ('base,answers\nx,"[1]"\n', "pairs.csv:2: 'answers[0]': 1 is not of type 'string'"),
        ('base,answers\n"x"y,a\n', "pairs.csv:2: ',' expected after '\"'; put a cell"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(InputError) as caught:
        tasks.load(str(tmp_path / "pairs.csv"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.txt", "x", "pairs.txt is no format of pairs: they are read from JSON Lines (.jsonl), CSV (.csv)"),
        ("pairs", "x", "is no format of pairs"),
        ("pairs.jsonl", '[{"base": "x", "answers": [" a"]}]', "pairs.jsonl:1: holds a JSON array, and JSON Lines"),
        ("pairs.JSONL", '[\n{"base": "x"}]', "pairs.JSONL:1: holds a JSON array"),
        ("pairs.json", '[{"base": "x", "answers": [" a"]}]', "pairs.json: holds a JSON array"),
        ("pairs.json", '{"base": "x", "answers": [" a"]}', "pairs.json: is one pair; put it on one line"),
        ("circuit.json", '{"nodes": {}, "edges": {}}', "circuit.json: is a circuit, not pairs"),
        ("facts.json", '[{"case_id": 1, "requested_rewrite": {}}]', "read with --task counterfact --data"),
        ("mib.jsonl", '{"prompt": "x", "choices": ["a"]}', "mib.jsonl:1: unknown field 'prompt': did you mean 'base'?"),
        ("mib.jsonl", '{"base": "x", "choices": ["a"]}', "unknown field 'choices': did you mean 'answers'?"),
    ],
)
def test_a_file_that_is_there_is_told_what_it_is(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        tasks.load(str(tmp_path / name))
    assert message in str(caught.value)


def test_what_is_not_there_and_what_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*pairs.txt"):
        tasks.load(str(tmp_path / "pairs.txt"))
    with pytest.raises(InputError, match="is a folder, not a task"):
        tasks.load(str(tmp_path))
    with pytest.raises(UnknownName, match="unknown task 'winobais'"):
        tasks.load("winobais")
