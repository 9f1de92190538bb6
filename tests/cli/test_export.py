"""`cotrace export`, and that `cotrace evaluate` and `--task` read what other tools write."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import cotrace as ct
from cotrace import interchange, shipped
from cotrace.cli.handing_out import Source, as_nnsight, as_transformer_lens
from cotrace.cli.main import run


@pytest.fixture(scope="module")
def traced(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import records, write_lines

    folder = tmp_path_factory.mktemp("export")
    rows = [row | {"id": f"={row['id']}"} for row in records()]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    out = folder / "run"
    options = ["--holdout", "0.25", "--search", "greedy", "--evaluation", "none", "--quiet"]
    assert run(["trace", "--model", str(tiny_folder), "--task", str(pairs), *options, "--out", str(out)]) == 0
    return out


def exported(traced: Path, format_: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run(["export", str(traced), "--format", format_, *options]) == 0
    return capsys.readouterr().out


def chosen(traced: Path, k: int | None = None) -> list[str]:
    data = json.loads((traced / "selection.json").read_text())
    return (data["chosen"] if k is None else data["frontiers"][0]["selections"][k - 1])["components"]


@pytest.mark.parametrize("format_", ["json", "mib", "transformer-lens", "nnsight", "names"])
def test_every_selection_comes_back(
    traced: Path, format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "selection"
    path.write_text(exported(traced, format_, capsys, "--k", "2"), encoding="utf-8")
    assert sorted(interchange.read_selection(path).components) == sorted(chosen(traced, 2))


def test_json_is_as_the_schema_says(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(exported(traced, "json", capsys))
    Draft202012Validator(interchange.schema()).validate(data)
    assert data["chosen"]["components"] == chosen(traced)
    assert data["about"]["donors"] == "counterfactual"
    assert len(data["about"]["space"]) == 4


def test_code_parses_and_names_the_model(traced: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format_ in ("transformer-lens", "nnsight"):
        code = exported(traced, format_, capsys)
        ast.parse(code)
        assert repr(str(tiny_folder)) in code


@pytest.mark.parametrize("write", [as_transformer_lens, as_nnsight])
def test_code_for_the_model_that_ships_finds_it_where_cotrace_is(
    traced: Path, write: Callable[[Source], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine the folder is another one: no path of this one stands in the code."""
    source = Source.read(str(traced), None, 2)
    source = replace(source, run=replace(source.run, config=replace(source.run.config, model="shipped")))
    code = write(source).decode()
    assert str(shipped.FOLDER.parent.parent) not in code
    named = [
        node
        for node in ast.parse(code).body
        if (isinstance(node, ast.ImportFrom) and node.module == "cotrace")
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL")
    ]
    for folder in (shipped.MODEL, tmp_path):
        monkeypatch.setattr(shipped, "MODEL", folder)
        exec(ast.unparse(ast.Module(named, [])), found := {})  # type: ignore[var-annotated]
        assert found["MODEL"] == str(folder)


def test_tables_for_spreadsheets(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = list(csv.DictReader(io.StringIO(exported(traced, "csv", capsys))))
    assert [row["component"] for row in members if row["k"] == "2"] == chosen(traced, 2)
    effects = list(csv.DictReader(io.StringIO(exported(traced, "effects", capsys))))
    assert {row["part"] for row in effects} == {"training", "heldout"}
    assert all(row["pair"].startswith("'=") for row in effects), "ids that begin like a formula are shown, not run"
    frontier = {row["k"]: row for row in csv.DictReader(io.StringIO((traced / "frontier.csv").read_text()))}
    for k, row in frontier.items():
        for part, name in (("training", "effect"), ("heldout", "effect_heldout")):
            own = [float(one["effect"]) for one in effects if one["k"] == k and one["part"] == part]
            assert sum(own) / len(own) == pytest.approx(float(row[name]), rel=1e-5)


def test_a_new_file_is_written_and_an_old_one_left(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.json"
    assert run(["export", str(traced), "--out", str(path)]) == 0
    before = path.read_bytes()
    for out, reason in ((path, "exists already"), (tmp_path / "no" / "file", "there is no folder")):
        assert run(["export", str(traced), "--format", "names", "--out", str(out)]) == 2
        assert reason in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--k", "9"], "no selection of exactly 9"),
        (["--search", "pursuit"], "choose one of greedy"),
        (["--format", "xml"], "xml"),
        (["--format", "csv", "--k", "2"], "--format csv holds every size: leave --k out"),
    ],
)
def test_bad_input(traced: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(traced), *options]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_evaluate_takes_every_format(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: list[str] = []
    for format_ in ("json", "mib", "nnsight"):
        path = tmp_path / format_
        path.write_text(exported(traced, format_, capsys, "--k", "1"), encoding="utf-8")
        options += ["--selection", str(path)]
    assert run(["evaluate", str(traced), "--level", "quick", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]["foreign"]
    assert [one["components"] for one in found] == [chosen(traced, 1)] * 3
    assert {one["overlap"] for one in found} == {1.0}


def test_auto_circuit_prompts_are_a_task(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pairs in both formats give the same frontier."""
    from tests.conftest import records, write_lines

    prompts = [
        {"clean": row["base"], "corrupt": row["counterfactual"], "answers": [" she"], "wrong_answers": [" he"]}
        for row in records()
    ]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    write_lines(tmp_path / "pairs.jsonl", [row | {"id": str(i)} for i, row in enumerate(records(), 1)])
    monkeypatch.chdir(tmp_path)
    found = []
    for task in ("prompts.json", "pairs.jsonl"):
        options = ["--model", str(tiny_folder), "--task", task, "--search", "greedy", "--evaluation", "none", "--json"]
        options += ["--direction", "maximise"]  # a model of random weights shows none
        assert run(["trace", *options, "--out", f"run-{task}"]) == 0
        found.append(json.loads(capsys.readouterr().out)["frontier"])
    assert found[0] == found[1]
    assert ct.tasks.auto_circuit("prompts.json").pairs == ct.Task.from_jsonl("pairs.jsonl").pairs
