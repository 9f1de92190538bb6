"""`cotrace explain`: what it says first, what it writes, what the report shows of it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cotrace as ct
from cotrace.cli.main import run
from cotrace.readout import Explanation
from cotrace.readout.explanation_files import NAMES
from tests.conftest import records, write_lines


@pytest.fixture(scope="module")
def traced(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(2) for row in records()]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    options = ["--holdout", "0.4", "--search", "topk", "--direction", "minimise", "--evaluation", "none", "--quiet"]
    out = folder / "run"
    assert run(["trace", "--model", str(tiny_folder), "--task", str(pairs), *options, "--out", str(out)]) == 0
    return out


def test_it_says_the_cost_first_and_does_nothing_on_a_dry_run(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(traced), "--k", "2", "--dry-run"]) == 0
    assert "at most " in capsys.readouterr().out
    assert run(["explain", str(traced), "--k", "2", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["forward_equivalents"] <= 4 * 2**2 + 100
    assert not (traced / NAMES[0]).exists()


def test_words_files_and_report(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is on the screen is in the file, which verifies; the report shows it, without texts where it is redacted."""
    assert run(["explain", str(traced), "--k", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] == [str(traced / name) for name in NAMES]
    data = json.loads((traced / NAMES[0]).read_text())
    assert data["words"] == told["words"]
    found = Explanation.from_dict(data)
    frontier = json.loads((traced / "selection.json").read_text())["frontiers"][0]
    chosen = next(one for one in frontier["selections"] if len(one["components"]) == 2)
    assert sorted(found.components) == sorted(chosen["components"])
    assert run(["explain", str(traced), "--k", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in told["words"])
    assert run(["verify", str(traced), "--quiet"]) == 0
    plain, redacted = tmp_path / "plain.html", tmp_path / "redacted.html"
    assert run(["report", str(traced), "--out", str(plain), "--quiet"]) == 0
    assert run(["report", str(traced), "--redact", "--out", str(redacted), "--quiet"]) == 0
    texts = [path.read_text() for path in (plain, redacted)]
    for text in texts:
        assert all(f'id="card-{name.replace(".", "-")}"' in text for name in found.components)
        assert 'class="circuit"' in text
    assert ['id="pattern"' in text for text in texts] == [True, False]
    assert "What they do</a>" in texts[0]


def test_a_report_without_an_explanation_says_how_to_get_one(traced: Path, tmp_path: Path) -> None:
    frontier = ct.Frontier.from_dict(json.loads((traced / "selection.json").read_text())["frontiers"][0])
    text = ct.report.write(frontier, tmp_path / "r.html").read_text()
    assert "cotrace explain RUN measures it" in text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--k", "99"], "no selection of exactly 99"),
        (["--search", "greedy"], "unknown search"),
        (["--known", "nothing"], "unknown circuit"),
        (["--known", "ioi"], "circuit ioi is of gpt2"),
    ],
)
def test_it_refuses_in_one_line(traced: Path, options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(traced), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert why in said[0]


def test_a_damaged_file_is_said(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(traced), "--k", "1", "--quiet"]) == 0
    (traced / NAMES[0]).write_text("{}")
    assert run(["report", str(traced), "--out", str(tmp_path / "r.html")]) == 2
    assert NAMES[0] in capsys.readouterr().err
