"""Runs in Python: a folder written from a problem is taken by every command, and opened it is what was found."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import cotrace as ct
from cotrace.cli.main import run as command
from cotrace.donors import Noise
from cotrace.errors import DamagedRun, InputError, OutputExists, UnknownName
from cotrace.runs.manifest import Manifest
from tests.conftest import records, word_tokenizer


@pytest.fixture(scope="module")
def found(tiny_folder: Path) -> tuple[ct.LanguageProblem, ct.Frontier]:
    model = ct.load_model(str(tiny_folder))
    rows = [row | {"weight": 2.0 if i % 2 else 1.0, "meta": {"place": i}} for i, row in enumerate(records())]
    task = replace(ct.Task.from_records(rows, name="jobs / two"), score="mean")
    problem = ct.LanguageProblem(
        model, task, sites=["head_output", "L1.mlp"], holdout=0.3, direction="maximise", donors="zero", seed=3
    )
    return problem, ct.search.Greedy()(problem)


@pytest.fixture(scope="module")
def folder(found: tuple[ct.LanguageProblem, ct.Frontier], tmp_path_factory: pytest.TempPathFactory) -> Path:
    problem, frontier = found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few pairs for intervals
        judged = ct.evaluate(problem, frontier)
    return ct.save_run(tmp_path_factory.mktemp("runs") / "greedy", problem, frontier, judged)


def test_a_run_opened_is_what_was_saved(folder: Path, found: tuple[ct.LanguageProblem, ct.Frontier]) -> None:
    problem, frontier = found
    run = ct.open_run(folder)
    assert [one.components for one in run.frontier] == [one.components for one in frontier]
    assert [one.effect for one in run.frontier] == [one.effect for one in frontier]
    assert run.frontier.effects is not None
    assert frontier.effects is not None
    assert (run.frontier.effects.effects == frontier.effects.effects).all()
    assert run.evaluation is not None
    assert run.of("greedy") is run.frontier
    assert run.config.direction == "maximise"
    assert run.frontier.summary in str(run)
    again = run.problem
    assert again is run.problem
    assert again.space.components == problem.space.components
    assert again.training.ids == problem.training.ids
    assert again.task == "jobs-two"
    assert torch.equal(again.effects(frontier.at(2)), problem.effects(frontier.at(2)))


def test_what_its_members_do_is_kept_with_it(
    found: tuple[ct.LanguageProblem, ct.Frontier], folder: Path, tmp_path: Path
) -> None:
    problem, frontier = found
    assert ct.open_run(folder).explanation is None
    told = ct.explain(problem, frontier, k=2)
    run = ct.open_run(ct.save_run(tmp_path / "explained", problem, frontier, explanation=told))
    assert run.explanation == told
    assert told.words[0] in (run.path / "report.html").read_text()
    assert {"explanation.json", "explanation.graphml"} <= set(Manifest.read(run.path).files)
    with pytest.raises(InputError, match=r"the explanation is of tiny on other, and the problem is of"):
        ct.save_run(tmp_path / "other", problem, frontier, explanation=replace(told, model="tiny", task="other"))
    assert not (tmp_path / "other").exists()


def test_a_run_that_moves_is_opened_with_its_own_pairs(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    run = ct.open_run(moved)
    assert Path(run.config.task) == moved / "jobs-two.jsonl"
    assert run.problem.size == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "RUN"],
        ["report", "RUN", "--out", "NEW.html"],
        ["figure", "RUN", "--kind", "map", "--out", "NEW.png", "--format", "png"],
        ["resume", "RUN"],
        ["trace", "--config", "RUN/config.yaml", "--out", "NEW", "--evaluation", "none"],
    ],
)
def test_the_commands_take_it(arguments: list[str], folder: Path, tmp_path: Path) -> None:
    given = [part.replace("RUN", str(folder)).replace("NEW", str(tmp_path / "new")) for part in arguments]
    assert command(given) == 0
    if arguments[0] == "trace":
        one, other = (ct.open_run(path).frontier for path in (folder, tmp_path / "new"))
        assert [each.components for each in one] == [each.components for each in other]
        assert [each.effect for each in one] == [each.effect for each in other]


def test_its_sets_are_a_shortlist_on_the_command_line(
    folder: Path, pairs_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    best = ct.open_run(folder).frontier.best(2)
    base = [
        "trace",
        "--model",
        str(tiny_folder),
        "--task",
        str(pairs_file),
        "--direction",
        "maximise",
        "--search",
        "greedy",
    ]
    assert command([*base, "--evaluation", "none", "--sites", f"{folder}:2", "--out", str(tmp_path / "short")]) == 0
    short = ct.open_run(tmp_path / "short")
    assert set(short.frontier.space) == set(best.members)
    assert set(short.config.sites) == set(best.components)
    assert (
        command(
            [
                *base,
                "--evaluation",
                "none",
                "--sites",
                "L0.*,L*.head1",
                "--layers",
                "0",
                "--out",
                str(tmp_path / "some"),
            ]
        )
        == 0
    )
    assert ct.open_run(tmp_path / "some").frontier.space.names == ["L0.head0", "L0.head1", "L0.mlp"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sites", "L7.head1"], "has no L7.head1; it has 4 head_output in 2 layers"),
        (["--sites", "head_outputs"], "unknown site 'head_outputs'"),
        (["--sites", "runs/none"], "there is no run runs/none"),
        (["--layers", "9..2"], "layers is '9..2'; give numbers from 0"),
        (["--layers", "0..9"], "layers go up to 9"),
        (["--sites", "head_output@nowhere"], "has no role 'nowhere'"),
    ],
)
def test_a_space_that_is_none_is_one_line_with_exit_code_2(
    options: list[str],
    words: str,
    pairs_file: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["trace", "--model", str(tiny_folder), "--task", str(pairs_file), "--direction", "maximise"]
    assert command([*given, *options, "--out", str(tmp_path / "new")]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_a_run_of_a_whole_site_names_the_site(found: tuple[ct.LanguageProblem, ct.Frontier], tmp_path: Path) -> None:
    problem, _ = found
    whole = ct.LanguageProblem(
        problem.model, problem.source_task, sites=["head_output"], donors="zero", direction="maximise"
    )
    kept = ct.save_run(tmp_path / "whole", whole, ct.search.Greedy(max_size=1)(whole))
    assert ct.open_run(kept).config.sites == ("head_output",)
    assert ct.open_run(kept).evaluation is None


def test_what_cannot_be_opened_again_is_refused_before_anything_is_written(
    found: tuple[ct.LanguageProblem, ct.Frontier], tmp_path: Path
) -> None:
    problem, frontier = found
    other = ct.LanguageProblem(
        problem.model, problem.source_task, sites=["mlp_output"], donors="zero", direction="maximise"
    )
    width = problem.model.module.config.hidden_size
    encoded = problem.encoding.pairs
    noise = Noise(tensors={one.pair.id: torch.full((len(one.prompt), width), 0.1) for one in encoded})
    noised = ct.LanguageProblem(
        problem.model, problem.source_task, sites=["head_output"], donors=noise, direction="maximise"
    )
    module = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=16, bos_token_id=0, eos_token_id=0)
    )
    loose = ct.LanguageProblem(
        ct.wrap(module, word_tokenizer()),
        problem.source_task,
        sites=["head_output"],
        donors="zero",
        direction="maximise",
    )
    for one, result, words in (
        (other, frontier, "give the problem that it was found on"),
        (problem, [], "there is no frontier"),
        (noised, ct.search.Greedy(max_size=1)(noised), "has no name"),
        (loose, ct.search.Greedy(max_size=1)(loose), "was made in memory, so the run could not be opened"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            ct.save_run(tmp_path / "new", one, result)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new").exists()


def test_a_folder_that_is_taken_or_no_run_is_one_line(folder: Path, found: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="already holds a run"):
        ct.save_run(folder, *found)
    with pytest.raises(InputError, match="there is no run"):
        ct.open_run(tmp_path / "none")
    with pytest.raises(InputError, match="is not a run"):
        ct.open_run(tmp_path)
    with pytest.raises(UnknownName, match="unknown search 'pursuit'"):
        ct.open_run(folder).of("pursuit")
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "selection.json").write_text("{}")
    with pytest.raises(DamagedRun):
        ct.open_run(broken)


def test_pairs_are_written_as_they_were(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "jobs-two.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in records()]
    assert rows[1]["weight"] == 2.0
    assert rows[3]["meta"] == {"place": 3}
