"""`cotrace trace` and `cotrace compare` on a tiny model: what is written, and that it replays to the same bytes."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import cotrace as ct
from cotrace.cli.main import run

FILES = {
    ".lock",
    "config.yaml",
    "effects.safetensors",
    "evaluation.json",
    "examples.json",
    "frontier.csv",
    "frontier.png",
    "history.csv",
    "log.txt",
    "manifest.json",
    "map.png",
    "masks.safetensors",
    "plain.json",
    "report.html",
    "selection.json",
}


@pytest.fixture
def asked(tiny_folder: Path, pairs_file: Path) -> list[str]:
    """The options that say what is traced."""
    return ["--model", str(tiny_folder), "--task", str(pairs_file), "--holdout", "0.25"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_trace_writes_every_file_and_greedy_sizes(asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    assert run(["trace", *asked, "--search", "greedy", "--max-size", "3", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    rows = rows_of(out / "frontier.csv")
    assert list(rows[0]) == [
        *("search", "k", "effect", "effect_heldout", "ci_low", "ci_high"),
        *("p_value", "forward_equivalents", "components"),
        *("reported_before", "reported", "reported_before_heldout", "reported_heldout"),
    ]
    assert [row["k"] for row in rows] == ["1", "2", "3"]
    assert all(len(row["components"].split()) == int(row["k"]) for row in rows)
    assert all(row["search"] == "greedy" and row["effect_heldout"] and row["p_value"] for row in rows)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_frontier_holds_the_best_sets_of_brute_force(asked: list[str], tmp_path: Path, mode: str) -> None:
    """All 15 sets of 4 heads, evaluated one by one through the library, against what the command line wrote."""
    model, task = ct.load_model(asked[1]), ct.Task.from_jsonl(asked[3])
    problem = ct.LanguageProblem(model, task, holdout=0.25, mode=mode)
    sign = 1 if problem.direction == "maximise" else -1
    out = tmp_path / "run"
    options = ["--mode", mode, "--search", "random", "--option.random.draws", "64", "--out", str(out)]
    assert run(["trace", *asked, *options]) == 0
    rows = rows_of(out / "frontier.csv")
    masks = load_file(out / "masks.safetensors")["random.masks"]
    for row, mask in zip(rows, masks, strict=True):
        sets = combinations(problem.space.names, int(row["k"]))
        effects = {" ".join(names): sign * problem.effects(list(names)).mean().item() for names in sets}
        assert row["components"] == max(effects, key=effects.__getitem__)
        assert float(row["effect"]) == pytest.approx(sign * max(effects.values()), abs=1e-5)
        chosen = np.array([name in row["components"].split() for name in problem.space.names])
        assert (mask == (chosen if mode == "swap" else ~chosen)).all()


def test_compare_has_all_five_searches_on_one_problem(asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(["compare", *asked, "--out", str(out), "--quiet"]) == 0
    rows = rows_of(out / "frontier.csv")
    assert list(dict.fromkeys(row["search"] for row in rows)) == ["pursuit", "pgbct", "greedy", "topk", "random"]
    whole = {row["effect"] for row in rows if row["k"] == "4"}
    assert len(whole) == 1, "the set of all components is one set, whoever evaluates it"
    history = rows_of(out / "history.csv")
    spent = [float(row["forward_equivalents"]) for row in history if row["search"] == "greedy"]
    assert spent == sorted(spent)
    assert spent[-1] == 4 + 3 + 2 + 1


def test_a_run_replays_to_the_same_bytes(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    monkeypatch.chdir(tiny_folder.parent)
    here = [*asked[:1], tiny_folder.name, *asked[2:]]
    options = ["--search", "pursuit,pgbct", "--option.pgbct.l1", "0.01,1e-3", "--seed", "3", "--max-size", "2"]
    assert run(["trace", *here, *options, "--out", str(first)]) == 0
    monkeypatch.chdir(tmp_path)
    assert run(["trace", "--config", str(first / "config.yaml"), "--out", str(again)]) == 0
    for name in FILES - {"config.yaml", "report.html", "manifest.json", "log.txt"}:  # the command line and the clock
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    stored = yaml.safe_load((first / "config.yaml").read_text())
    assert stored["search_options"] == {"pgbct": {"l1": [0.01, 0.001]}}
    assert stored["record"]["versions"]["cotrace"] == ct.__version__


def test_an_option_wins_over_the_config_file(asked: list[str], tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    assert run(["trace", *asked, "--search", "topk", "--max-size", "2", "--out", str(first)]) == 0
    assert run(["trace", "--config", str(first / "config.yaml"), "--max-size", "1", "--out", str(again)]) == 0
    assert [row["k"] for row in rows_of(again / "frontier.csv")] == ["1"]
    assert [row["search"] for row in rows_of(again / "frontier.csv")] == ["topk"]


def test_the_chosen_selection_is_the_smallest_with_nine_tenths(asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(["trace", *asked, "--search", "greedy", "--out", str(out)]) == 0
    data = json.loads((out / "selection.json").read_text())
    sign = 1 if data["frontiers"][0]["direction"] == "maximise" else -1
    effects = {int(row["k"]): sign * float(row["effect"]) for row in rows_of(out / "frontier.csv")}
    assert data["chosen"]["k"] == min(k for k, effect in effects.items() if effect >= 0.9 * max(effects.values()))
    read = ct.Frontier.from_dict(data["frontiers"][0])
    assert [one.components for one in read] == [row["components"].split() for row in rows_of(out / "frontier.csv")]


def test_quiet_says_nothing(asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", *asked, "--search", "topk", "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert capfd.readouterr() == ("", "")


def test_the_screen_shows_question_progress_and_result(
    asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", *asked, "--search", "topk", "--out", str(tmp_path / "run")]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("swapping everything moves log odds by ")
    assert "of 9 pairs agree" in out
    assert "topk (swap): log_odds on pairs, " in out
    assert "4 head_output in 2 layers" in out
    assert "of the best effect: " in out
    assert "topk: " in err
    assert "forward-equivalents" in err
    assert "\x1b" not in out + err, "no colours where it is not a terminal"


def test_without_a_name_the_next_free_folder_is_taken(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(["trace", *asked, "--search", "topk", "--max-size", "1", "--quiet"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["pairs-topk", "pairs-topk-2"]


@pytest.mark.parametrize("command", ["trace", "compare"])
def test_dry_run_says_the_plan_and_writes_nothing(
    asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([command, *asked, "--dry-run", "--out", str(tmp_path / "run")]) == 0
    out = capfd.readouterr().out
    figures = {line[:44].strip(): line[44:].strip() for line in out.splitlines() if line.startswith("  ")}
    assert figures["pairs searched"] == "9"
    assert figures["pairs held out"] == "3"
    assert figures["components N"] == "4"
    assert "at most" in out
    assert not (tmp_path / "run").exists()


def test_progress_lines_hold_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quarter of the predicted cost in 10 s, 30 s are left."""
    from cotrace.cli import display
    from tests.problems import ClosedForm

    problem = ClosedForm(lambda s: s.sum(-1, keepdim=True).expand(-1, 8).double(), n=4)
    search = ct.search.Greedy()
    now = [0.0]
    monkeypatch.setattr(display.time, "perf_counter", lambda: now[0])
    shown: list[str] = []

    class Display:
        def show(self, step: object, state: object, left: str) -> None:
            shown.append(left)

    watch = display.Watch(search, problem, Display())  # type: ignore[arg-type]
    states = search.steps(problem)
    for elapsed in (10.0, 20.0):
        state = next(states)
        now[0] = elapsed
        watch(state)
    assert watch.predicted == pytest.approx(10)
    assert shown == [display.duration(10 * (10 / 4 - 1)), display.duration(20 * (10 / 7 - 1))]


def test_a_folder_with_the_name_of_a_task_does_not_stand_for_it(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("winobias").mkdir()
    assert run(["trace", "--model", str(tiny_folder), "--task", "winobias", "--data", "winobias"]) == 2
    assert "winobias has no female_occupations.txt" in capfd.readouterr().err
