"""Campaigns: cells of a grid, done once each; one that fails is listed and the rest goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from cotrace.cli.main import run
from cotrace.errors import InputError
from cotrace.runs.campaign import Campaign, depths_of, read_grid
from tests.conftest import records, write_lines


@pytest.fixture
def grid(tiny_folder: Path, tmp_path: Path) -> Path:
    """Two seeds by two searches on one model, and a site that GPT-2 lacks besides."""
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [{**row, "id": f"{row['id']}{i}"} for i in range(2) for row in records()]
    )
    data = {
        "models": [str(tiny_folder)],
        "tasks": [pairs.name],
        "sites": ["head_output"],
        "seeds": [0, 1],
        "searches": ["topk", {"searches": ["greedy"], "max_size": 2}],
        "common": {"direction": "minimise", "holdout": 0.5, "max_size": 3},
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def add(path: Path, **more: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))


def test_a_grid_is_the_product_of_its_axes(grid: Path, tmp_path: Path) -> None:
    cells = read_grid(grid)
    assert [(c.at["seeds"], c.config.searches, c.config.max_size) for c in cells] == [
        ("0", ("topk",), 3),
        ("0", ("greedy",), 2),
        ("1", ("topk",), 3),
        ("1", ("greedy",), 2),
    ]
    assert {cell.config.task for cell in cells} == {str(tmp_path / "pairs.jsonl")}, "paths are those of its folder"
    assert len({cell.name for cell in cells}) == 4
    add(grid, donors=["zero"])
    assert not {c.name for c in read_grid(grid)} & {c.name for c in cells}, "another question has another folder"


def test_finished_cells_are_never_run_again_and_failures_stop_no_other(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "campaign"
    add(grid, sites=["head_output", "expert"], seeds=[0])
    assert run(["sweep", str(grid), "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cotrace: 2 of 4 cells have no result; the first, ")
    assert "has no expert; it has" in said
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [row["status"].partition(":")[0] for row in rows].count("done") == 2
    assert [row["status"].partition(":")[0] for row in rows].count("failed") == 2
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/manifest.json")}
    assert len(done) == 2
    add(grid, sites=["head_output"], seeds=[0, 1])
    assert run(["sweep", str(grid), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "4 cells, 2 of them done" in told.err
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(out.glob("cells/*/manifest.json"))) == 4
    assert "Components that return" in told.out
    page = (out / "report.html").read_text()
    assert all(
        title in page for title in ("Cells", "Components that return", "Where they lie", "The metric in each model")
    )
    assert "<script" not in page


def test_the_tables_count_what_the_cells_chose(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "campaign"
    assert run(["sweep", str(grid), "--out", str(out), "--quiet"]) == 0
    campaign = Campaign(out, read_grid(grid))
    outcomes = [campaign.outcome(cell) for cell in campaign.cells]
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    for outcome, row in zip(outcomes, rows, strict=True):
        assert outcome.frontier is not None
        best = outcome.frontier.at(int(row["k"]))
        assert row["components"].split() == list(best.components)
        assert float(row["effect"]) == best.effect
        layers = [int(name[1]) for name in row["components"].split()]
        assert depths_of(outcome) == [5 * layer for layer in layers], "two layers: the second begins at half the depth"
        assert outcome.evaluation is not None
        assert (row["level_before"] == "") == (outcome.evaluation.hard is None)


def test_a_cell_that_was_begun_is_resumed(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotrace.runs.writer import RunWriter

    own, steps = RunWriter.step, [0]

    def stop(self: RunWriter, *given: object) -> None:
        own(self, *given)  # type: ignore[arg-type]
        steps[0] += 1
        if steps[0] == 2:
            raise KeyboardInterrupt

    add(grid, searches=["greedy"], seeds=[0])
    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "step", stop)
        assert run(["sweep", str(grid), "--out", str(tmp_path / "campaign"), "--quiet"]) == 130
    capsys.readouterr()
    assert run(["sweep", str(grid), "--out", str(tmp_path / "campaign")]) == 0
    assert "going on after step 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"models": []}, r"models: List should have at least 1 item"),
        ({"modelz": ["a"]}, r"modelz: Extra inputs are not permitted.*; a grid has models, tasks"),
        ({"common": {"max_sise": 3}}, r"unknown field of a run 'max_sise': did you mean 'max_size'"),
        ({"common": {"workers": 3}}, r"unknown field of a run 'workers'"),
        ({"common": {"holdout": 2}}, r"holdout is 2"),
        ({"seeds": [0, 0]}, r"stands twice"),
    ],
)
def test_a_grid_that_is_wrong_is_one_line(grid: Path, more: dict[str, object], words: str) -> None:
    add(grid, **more)
    with pytest.raises(InputError, match=words):
        read_grid(grid)


def test_a_folder_that_is_no_campaign_and_a_file_that_is_no_grid_are_refused(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    assert run(["sweep", str(grid), "--out", str(tmp_path / "other")]) == 2
    assert "holds something that is no campaign" in capsys.readouterr().err
    grid.write_text("models: [a\n")
    with pytest.raises(InputError, match=r"not YAML, line 2"):
        read_grid(grid)


def test_a_campaign_whose_list_of_cells_is_damaged_is_one_line(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, words in (("{", "Invalid JSON"), ('{"cells": 3}', "cells: Input should be a valid array; it is 3")):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "grid.json").write_text(content)
        assert run(["sweep", str(grid), "--out", str(tmp_path / "out"), "--quiet"]) == 2
        assert f"grid.json is not what a sweep writes ({words}" in capsys.readouterr().err
