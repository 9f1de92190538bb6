"""`cotrace transfer`: a run's set on a split, a task of other pairs and another checkpoint; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cotrace as ct
from cotrace.cli.main import run
from cotrace.runs.result_files import StoredRun
from tests.conftest import records, write_lines


@pytest.fixture(scope="module")
def traced(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(3) for row in records()]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    write_lines(folder / "others.jsonl", [{**row, "id": f"o{i}"} for i, row in enumerate(rows[::2])])
    options = ["--holdout", "0.4", "--search", "topk", "--direction", "minimise", "--evaluation", "none", "--quiet"]
    asked = ["trace", "--model", str(tiny_folder), "--task", str(pairs), *options, "--out", str(folder / "run")]
    assert run(asked) == 0
    return folder / "run"


@pytest.mark.filterwarnings("ignore:.*have the prompts of a pair on another side")
def test_figures_are_those_of_the_target(traced: Path, tiny_folder: Path, tmp_path: Path) -> None:
    others = traced.parent / "others.jsonl"
    path = tmp_path / "found.json"
    asked = ["--k", "2", "--controls", "9", "--direction", "minimise", "--json", str(path), "--quiet"]
    assert run(["transfer", str(traced), "--to", str(others), "--to", f"model={tiny_folder}", *asked]) == 0
    found = json.loads(path.read_text())["targets"]
    chosen = StoredRun.read(traced).frontier().at(2)
    task = ct.Task.from_jsonl(others)
    problem = ct.LanguageProblem(ct.load_model(tiny_folder), task, holdout=0.4, direction="minimise")
    first = found[str(others)]
    assert problem.heldout is not None
    assert first["effect"] == pytest.approx(problem.heldout.value(list(chosen.components)).item(), abs=1e-5)
    assert first["full_effect"] == pytest.approx(problem.heldout.value(torch.ones(4)).item(), abs=1e-5)
    assert (first["target"], first["judged_on"], first["controls"]) == ("others", "held-out", 9)
    same = found[f"model={tiny_folder}"]
    assert same["effect"] == pytest.approx(chosen.effect_heldout, abs=1e-5), "the same model is no other one"


def test_refusals(traced: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refusals = {
        "nowhere": "--to nowhere is no task, no model's folder or id, and no split",
        "task=agrement": "did you mean 'agreement'",
        f"model={tmp_path}": "holds no config.json",
        "shipped": "is not in both spaces",
    }
    for target, words in refusals.items():
        assert run(["transfer", str(traced), "--to", target, "--direction", "minimise"]) == 2, target
        shown = capsys.readouterr().err
        assert words in shown, shown
    assert run(["transfer", str(traced), "--to", "agreement", "--k", "99"]) == 2
    assert "exactly 99" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*have the prompts of a pair on another side")
@pytest.mark.parametrize(
    "narrowed", [["--sites", "L1.*,L0.head1"], ["--sites", "head_output@last"], ["--layers", "1..1"]]
)
def test_a_narrowed_space_is_carried_as_it_is(
    narrowed: list[str], traced: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Components, a role, layers: the target's space is the run's, and its effect that of the same names."""
    pairs, others = (str(traced.parent / name) for name in ("pairs.jsonl", "others.jsonl"))
    options = ["--holdout", "0.4", "--search", "topk", "--direction", "minimise", "--evaluation", "none", "--quiet"]
    asked = ["trace", "--model", str(tiny_folder), "--task", pairs, *options, *narrowed, "--out", str(tmp_path / "run")]
    assert run(asked) == 0
    path = tmp_path / "found.json"
    told = ["--k", "1", "--controls", "1", "--direction", "minimise", "--json", str(path), "--quiet"]
    assert run(["transfer", str(tmp_path / "run"), "--to", others, *told]) == 0
    found = json.loads(path.read_text())["targets"][others]
    (name,) = StoredRun.read(tmp_path / "run").frontier().at(1).components
    task = ct.Task.from_jsonl(others)
    problem = ct.LanguageProblem(ct.load_model(tiny_folder), task, sites=[name], holdout=0.4, direction="minimise")
    assert problem.heldout is not None
    assert found["effect"] == pytest.approx(problem.heldout.value([name]).item(), abs=1e-5)
