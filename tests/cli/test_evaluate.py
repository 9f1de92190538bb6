"""`cotrace evaluate`: what it says and stores, the audit that is opened once, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cotrace as ct
from cotrace.cli.judging import sets_of
from cotrace.cli.main import run
from cotrace.cli.options import Judging
from cotrace.interchange import read_selection
from cotrace.runs.addenda import with_effects
from cotrace.runs.result_files import StoredRun
from tests.conftest import records, write_lines


def question(model: Path, folder: Path) -> list[str]:
    """A trace over 48 pairs in 16 groups, some sealed."""
    rows = [{**row, "id": f"{row['id']}-{i}", "meta": {"job": row["id"]}} for i in range(4) for row in records()]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    options = ["--holdout", "0.4", "--audit", "0.3", "--search", "topk", "--seed", "1", "--direction", "minimise"]
    return ["trace", "--model", str(model), "--task", str(pairs), *options, "--out", str(folder / "run")]


@pytest.fixture
def asked(tiny_folder: Path, tmp_path: Path) -> list[str]:
    return question(tiny_folder, tmp_path)


@pytest.fixture(scope="module")
def kept(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run and its pairs, made once."""
    folder = tmp_path_factory.mktemp("evaluate")
    assert run([*question(tiny_folder, folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def traced(kept: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written into."""
    return Path(shutil.copytree(kept / "run", tmp_path / "run"))


def stored(folder: Path, name: str = "evaluation.json") -> ct.Evaluation:
    data = json.loads((folder / name).read_text())
    assert data.pop("schema") == 1
    return ct.Evaluation.from_dict(data)


def test_a_trace_ends_with_a_verdict(asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked) == 0
    shown = capsys.readouterr().out
    found = stored(tmp_path / "run")
    assert (found.level, found.judged_on) == ("quick", "held-out")
    assert found.verdict[0] in shown
    assert found.members_table().columns == ["component"]  # no empty columns: nothing of members is judged so quickly
    csv = (tmp_path / "run" / "frontier.csv").read_text().splitlines()[1].split(",")
    assert float(csv[4]) == pytest.approx(found.sizes[0].interval[0])  # type: ignore[index]
    assert float(csv[6]) == found.sizes[0].p_adjusted


def test_no_evaluation_on_request(asked: list[str], tmp_path: Path) -> None:
    assert run([*asked, "--evaluation", "none", "--quiet"]) == 0
    assert not (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.filterwarnings("ignore:.*have the prompts of a pair on another side")
def test_effects_kept_are_those_of_the_problem(traced: Path, asked: list[str]) -> None:
    """Read from the run's folder, against the problem built anew."""
    task = ct.Task.from_jsonl(asked[4])
    problem = ct.LanguageProblem(ct.load_model(asked[2]), task, holdout=0.4, audit=0.3, seed=1)
    frontier = with_effects(traced, StoredRun.read(traced).frontier())
    assert frontier.effects is not None
    assert frontier.effects_heldout is not None
    chosen = torch.from_numpy(frontier.effects_heldout.chosen).float()
    assert problem.heldout is not None
    own = problem.heldout.effects(chosen)
    assert torch.allclose(torch.from_numpy(frontier.effects_heldout.effects), own.float(), atol=1e-5)


def test_standard_says_plan_and_members(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("0.1, L1.head0  # somebody's\n")
    assert run(["evaluate", str(traced), "--k", "2", "--selection", str(theirs)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("at most") < shown.index("The 2 selected") < shown.index("Verdict (standard")
    found = stored(traced)
    assert found.level == "standard"
    assert found.minimality is not None
    assert found.foreign[0].components == ("L0.head1", "L1.head0")
    assert found.faithfulness is not None


def test_dry_run_only_says(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (traced / "evaluation.json").read_bytes()
    assert run(["evaluate", str(traced), "--level", "full", "--dry-run"]) == 0
    assert "Evaluation full: at most" in capsys.readouterr().out
    assert (traced / "evaluation.json").read_bytes() == before


def test_the_audit_is_opened_once(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(traced), "--level", "quick", "--audit", "--quiet"]) == 0
    assert stored(traced, "evaluation-audit.json").judged_on == "audit"
    assert run(["evaluate", str(traced), "--audit"]) == 2
    assert "audit pairs" in capsys.readouterr().err


def test_stability_and_folds_search_again(traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(traced), "--level", "quick", "--stability", "2", "--folds", "3"]) == 0
    shown = capsys.readouterr().out
    assert "Searching again 2 times" in shown
    assert "3-fold cross-fitting" in shown
    assert "search" in {part.method for part in stored(traced).stability}


def test_a_trace_that_is_judged_longer_says_its_plan_and_what_it_does(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*asked, "--evaluation", "standard"]) == 0
    shown = capsys.readouterr()
    assert shown.out.index("Evaluation standard: at most") < shown.out.index("Verdict (standard")
    assert "minimality" in shown.out
    assert [line for line in shown.err.splitlines() if line.endswith(" of 5)")] == [
        "held-out effects and intervals (1 of 5)",
        "controls (2 of 5)",
        "members and outsiders (3 of 5)",
        "faithfulness and side effects (4 of 5)",
        "comparisons (5 of 5)",
    ]


def most(shown: str, about: str) -> int:
    """The most that a line says."""
    found = re.search(rf"{about}.*at most ([0-9,]+)", shown)
    assert found is not None, shown
    return int(found[1].replace(",", ""))


@pytest.mark.slow
def test_searching_again_costs_no_more_than_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pursuit, whose typical cost is far below the most that it may be."""
    trace = ["trace", "--model", "shipped", "--task", "demo_bias", "--max-size", "4", "--evaluation", "none", "--quiet"]
    assert run([*trace, "--out", str(tmp_path / "run")]) == 0
    again = ["evaluate", str(tmp_path / "run"), "--level", "quick", "--stability", "2", "--folds", "3"]
    capfd.readouterr()
    assert run([*again, "--dry-run"]) == 0
    shown = capfd.readouterr().out
    plan, more, folds = (most(shown, words) for words in ("Evaluation quick", "Searching again", "3-fold"))
    assert run([*again, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert more / 9 < found["evaluation"]["forward_equivalents"] - plan < more
    assert folds / 9 < found["cross_fit"]["forward_equivalents"] <= folds


def test_too_few_pairs_for_intervals_that_are_asked_for(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked[asked.index("--holdout") + 1] = "0.1"
    assert run([*asked, "--quiet"]) == 0
    traced = tmp_path / "run"
    kept = (traced / "evaluation.json").read_bytes()
    expected = r"cotrace: an interval needs at least 10 pairs, and these are [1-9]: give more, or hold out more\n"
    for further in ([], ["--dry-run"], ["--json"]):
        capsys.readouterr()
        assert run(["evaluate", str(traced), "--intervals", "--quiet", *further]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.fullmatch(expected, shown.err)
        assert (traced / "evaluation.json").read_bytes() == kept


def test_changed_data_or_model_are_refused(
    traced: Path, kept: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tiny_folder / "model.safetensors"
    own = weights.read_bytes()
    tensors = load_file(weights)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    try:
        assert run(["evaluate", str(traced)]) == 2
        assert "weights_sha256" in capsys.readouterr().err
    finally:
        weights.write_bytes(own)
    data = kept / "pairs.jsonl"
    whole = data.read_text()
    data.write_text(whole.replace('"target": 0', '"target": 1', 1))
    try:
        assert run(["evaluate", str(traced)]) == 2
        assert "the data differ" in capsys.readouterr().err
    finally:
        data.write_text(whole)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--selection", "absent.txt"], "cannot read absent.txt"),
        (["--known", "ioy"], "did you mean 'ioi'"),
        (["--search", "greedy"], "choose one of topk"),
        (["--k", "99"], "no selection of exactly 99: sizes are"),
        (["--k", "99"], "; give --k 4, the nearest below"),
        (["--smallest-p", "0.0001"], "needs 9999 controls"),
        (["--folds", "1"], "at least 2"),
    ],
)
def test_bad_input(traced: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(traced), *options]) == 2
    assert reason in capsys.readouterr().err


@pytest.fixture
def unloaded(traced: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, where nothing may be loaded any more."""
    monkeypatch.setattr("cotrace.runs.addenda.prepare", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr("cotrace.cli.inspection.prepare", lambda *_, **__: pytest.fail("the model was loaded"))
    return traced


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--k", "77"], "no selection of exactly 77"),
        (["--search", "greedy"], "choose one of topk"),
        (["--smallest-p", "2"], "--smallest-p is 2: give a p-value between 0 and 1"),
        (["--folds", "1000"], "--folds 1000: "),
        (["--text", "nowhere.txt"], "--text nowhere.txt: "),
        (["--text", "binary"], "not UTF-8"),
        (["--text", "empty"], "the data set is empty"),
        (["--text", "."], "give a text file"),
        (["--side", "no-such-task"], "no-such-task"),
        (["--side", "none.jsonl"], "none.jsonl"),
        (["--selection", "elsewhere"], "elsewhere: L99.head1 is no component of this run's space"),
    ],
)
def test_what_the_run_alone_shows_to_be_impossible_is_refused_before_anything_is_loaded(
    unloaded: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unloaded.parent)
    Path("binary").write_bytes(b"\x7fELF\xff\xfe")
    Path("empty").write_text("\n \n")
    Path("elsewhere").write_text("L99.head1\n")
    assert run(["evaluate", str(unloaded), "--level", "quick", *options]) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_verify_needs_an_example(unloaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(unloaded), "--examples", "0"]) == 2
    assert capsys.readouterr().err == "cotrace: examples is 0: compute at least 1 again\n"


def test_more_folds_than_groups_are_refused_before_anything_is_evaluated(
    traced: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has 16 groups of pairs, and fewer were searched; that the groups are so few only the data show."""
    monkeypatch.setattr("cotrace.cli.judging.evaluate", lambda *_, **__: pytest.fail("something was evaluated"))
    monkeypatch.setattr("cotrace.cli.judging.Units", Few)
    assert run(["evaluate", str(traced), "--level", "quick", "--folds", "4", "--quiet"]) == 2
    assert "--folds 4: the run searched 3 groups of pairs" in capsys.readouterr().err


class Few:
    """Units of pairs, of which there are three."""

    count, clustered = 3, True

    @classmethod
    def of(cls, _: object) -> Few:
        return cls()


def test_a_text_and_a_task_that_are_named_are_used_at_every_level(
    traced: Path, asked: list[str], tmp_path: Path
) -> None:
    (text := tmp_path / "text.txt").write_text("the nurse said that she\nthe pilot said that he\n" * 6)
    named = ["--text", str(text), "--side", asked[4]]
    assert run(["evaluate", str(traced), "--level", "quick", *named, "--quiet"]) == 0
    assert [side.task.split(" (")[0] for side in stored(traced).side_effects] == ["pairs", "text"]


def test_a_split_field_that_is_missing(asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*asked, "--split-by", "template"]) == 2
    assert "template" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "0.1 L1.head0",
        '["0.1", "L1.head0"]',
        '{"components": ["0.1", "1.0"]}',
        '{"chosen": {"components": ["0.1", "1.0"]}}',
    ],
)
def test_selections_are_read_in_every_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set"
    path.write_text(text)
    assert read_selection(path).components == ["L0.head1", "L1.head0"]


def test_sets_in_files_of_one_name_are_all_judged(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "set.txt" for folder in ("a", "b")]
    for head, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(f"L0.head{head}")
    found = sets_of(Judging(selection=tuple(map(str, paths))))
    assert {name: chosen.components for name, chosen in found.items()} == {
        str(path): [f"L0.head{head}"] for head, path in enumerate(paths)
    }
    assert list(sets_of(Judging(selection=(str(paths[0]),), known=("ioi",)))) == ["set.txt", "ioi"]
    paths[0].rename(named := tmp_path / "ioi")
    assert list(sets_of(Judging(selection=(str(named),), known=("ioi",)))) == [str(named), "ioi"]


def test_an_audit_of_a_run_without_audit_pairs_is_refused_before_anything_is_loaded(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked[asked.index("--audit") + 1] = "0"
    assert run([*asked, "--evaluation", "none", "--quiet"]) == 0
    monkeypatch.setattr("cotrace.runs.addenda.prepare", lambda *_, **__: pytest.fail("the model was loaded"))
    assert run(["evaluate", str(tmp_path / "run"), "--audit"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("has no audit pairs: they are set aside when a run is made, with --audit 0.2, say\n")
