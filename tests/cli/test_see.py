"""`cotrace report` and `cotrace figure` on a stored run: what is written, taken up and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cotrace.cli.main import run
from cotrace.runs.manifest import Manifest
from tests.conftest import records, write_lines


@pytest.fixture(scope="module")
def stored(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two searches."""
    folder = tmp_path_factory.mktemp("seen")
    pairs = write_lines(folder / "pairs.jsonl", records())
    asked = ["--model", str(tiny_folder), "--task", str(pairs), "--holdout", "0.25", "--evaluation", "none"]
    out = folder / "run"
    assert run(["compare", *asked, "--searches", "greedy,topk", "--quiet", "--out", str(out)]) == 0
    return folder


@pytest.fixture
def place(stored: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    shutil.copytree(stored / "run", tmp_path / "run")
    return tmp_path / "run"


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command is refused."""
    assert run(arguments) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


def test_trace_leaves_a_report_with_its_texts(place: Path) -> None:
    text = (place / "report.html").read_text()
    assert "the <mark>" not in text  # a token takes its space along
    assert " pilot</mark> said that" in text
    assert "cotrace compare --model" in text  # as it was typed
    record = yaml.safe_load((place / "config.yaml").read_text())["record"]
    for value in (record["data_sha256"], record["tokenizer_sha256"], record["model"]["weights_sha256"]):
        assert value in text
    assert {"report.html", "examples.json"} <= Manifest.read(place).files.keys()


def test_report_takes_up_a_later_evaluation(place: Path) -> None:
    assert "The result was not judged" in (place / "report.html").read_text()
    assert run(["evaluate", str(place), "--level", "quick", "--quiet"]) == 0
    assert run(["report", str(place), "--quiet"]) == 0
    text = (place / "report.html").read_text()
    assert "The result was not judged" not in text
    assert "Judged at level quick" in text
    assert Manifest.read(place).damaged() == {}


def test_redacted_report_stands_beside_the_other(place: Path) -> None:
    before = (place / "report.html").read_bytes()
    assert run(["report", str(place), "--redact", "--quiet"]) == 0
    text = (place / "report-redacted.html").read_text()
    assert "pilot-nurse" in text
    assert "said that" not in text
    assert "said that" in before.decode()
    assert (place / "report.html").read_bytes() == before


def test_report_goes_to_a_new_file_and_shows_the_search_asked_for(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.html"
    assert run(["report", str(place), "--search", "topk", "--out", str(out), "--quiet"]) == 0
    assert "The frontier of topk as a table" in out.read_text()


def test_edit_leaves_its_trade_off_for_the_report(place: Path, tmp_path: Path) -> None:
    neutral = tmp_path / "neutral.txt"
    neutral.write_text("the tall baker ran and was tall\nshe was a doctor\nthey said that he ran\n" * 3)
    edit = ["edit", str(place), "--constraint", "neutral<=5%", "--neutral", str(neutral)]
    assert run([*edit, "--out", str(tmp_path / "edited"), "--quiet"]) == 0
    assert run(["report", str(place), "--quiet"]) == 0
    text = (place / "report.html").read_text()
    assert "Trade-off of edits" in text
    assert 'id="chart-tradeoff-0"' in text
    (place / "tradeoff.json").write_text("{}")
    assert run(["report", str(place), "--quiet"]) == 2


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
@pytest.mark.parametrize("kind", ["frontier", "map", "layers", "compare"])
def test_figure_is_the_same_bytes_twice(place: Path, tmp_path: Path, kind: str, form: str) -> None:
    paths = [tmp_path / f"{name}.{form}" for name in "ab"]
    for path in paths:
        assert run(["figure", str(place), "--kind", kind, "--format", form, "--out", str(path), "--quiet"]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_figures_that_cannot_be_drawn_say_why(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = ["figure", str(place), "--quiet", "--out", str(tmp_path / "f.png"), "--kind"]
    assert "evaluate RUN --level standard" in refusal([*figure, "interactions"], capsys)
    assert "sizes are 1-4" in refusal([*figure, "map", "--k", "9"], capsys)
    assert "choose one of greedy, topk" in refusal([*figure, "map", "--search", "gredy"], capsys)
    assert "does not end in .svg" in refusal([*figure, "map", "--format", "svg"], capsys)
    assert "kind" in refusal([*figure, "maps"], capsys).lower()
    assert not (tmp_path / "f.png").exists()
    (tmp_path / "f.png").write_text("mine")
    assert "exists already" in refusal([*figure, "map"], capsys)
    assert (tmp_path / "f.png").read_text() == "mine"


def test_reports_that_cannot_be_made_say_why(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run" in refusal(["report", str(tmp_path / "none")], capsys)
    assert "exists already" in refusal(["report", str(place), "--out", str(place / "report.html")], capsys)
    assert "no folder" in refusal(["report", str(place), "--out", str(tmp_path / "no" / "r.html")], capsys)
    before = (place / "report.html").read_bytes()
    (place / "examples.json").write_text("[]")
    assert "examples.json" in refusal(["report", str(place)], capsys)
    assert (place / "report.html").read_bytes() == before


def test_run_without_its_examples_has_a_report_by_number(place: Path) -> None:
    (place / "examples.json").unlink()
    Manifest.of(place).write()
    assert run(["report", str(place), "--quiet"]) == 0
    text = (place / "report.html").read_text()
    assert "said that" not in text
    assert "held-out pair 1" in text
