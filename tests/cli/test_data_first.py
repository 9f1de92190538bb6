"""What is wrong with data, options or selections is told without a model; what is in texts does nothing but show."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import transformers

from cotrace.cli.main import run
from cotrace.editing.save import Card
from cotrace.report.figures import Figure, to_bytes
from cotrace.results.outcomes import Outcome
from cotrace.runs.directory import Log
from tests.conftest import records, write_lines

HOSTILE = "\x1b[31m\u202etxt\u200f\x07\x9b"
STEERS = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control and bidi signs, but for the ends of lines."""


@pytest.fixture(scope="module")
def stored(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pairs whose ids are hostile, and what the cases name."""
    folder = tmp_path_factory.mktemp("first")
    rows = [row | {"id": f"{row['id']}{HOSTILE}", "group": HOSTILE} for row in records()]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    options = ["--holdout", "0.25", "--search", "topk", "--direction", "maximise", "--evaluation", "none", "--quiet"]
    arguments = ["--model", str(tiny_folder), "--task", str(pairs), *options, "--out", str(folder / "run")]
    assert run(["trace", *arguments]) == 0
    (folder / "prompts.txt").write_text("the pilot said\n")
    (folder / "unknown.txt").write_text("L0.head1 L7.head0\n")
    write_lines(folder / "bad.jsonl", [rows[0], {"base": 3}])
    write_lines(folder / "lone.jsonl", [{name: rows[0][name] for name in ("id", "base", "answers")}])
    return folder


@pytest.fixture
def place(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, on a machine where no weights can be loaded."""
    shutil.copytree(stored, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")

    def load(*_: object, **__: object) -> Any:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    return tmp_path / "here"


ASKED = ["--model", "MODEL", "--task"]
CASES: dict[str, tuple[list[str], str]] = {
    **{
        f"{command} {' '.join(more)}": ([command, *ASKED, *more], words)
        for command in ("trace", "compare")
        for more, words in (
            (["bad.jsonl"], "bad.jsonl:2"),
            (["lone.jsonl", "--holdout", "0"], "has no 'counterfactual'"),
            (["pairs.jsonl", "--metric", "demographic_parity_gap"], "a group metric compares groups"),
            (["pairs.jsonl", "--roles", "subject"], "has no role 'subject'"),
            (["pairs.jsonl", "--split-by", "colour"], "colour"),
            (["pairs.jsonl", "--split-by", "group"], "leaves one side empty"),
            (["pairs.jsonl", "--align", "ends", "--donors", "zero"], "--donors zero takes no values from one"),
            (["pairs.jsonl", "--template-option.enable_thinking", "false"], "no pair has 'messages'"),
            (["pairs.jsonl", "--offload-folder", "x"], "give --device-map auto as well"),
            (["pairs.jsonl", "--device-map", "auto", "--quantise", "8bit"], "give one of the two"),
        )
    },
    "measure a bad line": (["measure", *ASKED, "bad.jsonl"], "bad.jsonl:2"),
    "measure by": (["measure", *ASKED, "pairs.jsonl", "--by", "colour"], "unknown field 'colour'"),
    "measure a metric": (["measure", *ASKED, "pairs.jsonl", "--metric", "demographic_parity_gap"], "compares groups"),
    "check a bad line": (["check", *ASKED, "bad.jsonl"], "bad.jsonl:2"),
    "check sites": (["check", "--model", "MODEL", "--sites", "head_ouput"], "did you mean 'head_output'"),
    "check align": (["check", "--model", "MODEL", "--align", "ends"], "give the task as well"),
    "check split": (["check", "--model", "MODEL", "--split", "dev"], "give --task as well"),
    "tasks show align": (["tasks", "show", "pairs.jsonl", "--align", "ends"], "give --model as well"),
    "evaluate a selection": (
        ["evaluate", "run", "--selection", "unknown.txt"],
        "L7.head0 is no component of",
    ),
    "evaluate a circuit": (["evaluate", "run", "--known", "ioi"], "circuit ioi is of gpt2"),
    "evaluate a side": (["evaluate", "run", "--side", "bad.jsonl"], "bad.jsonl:2"),
    "export mib of no size": (["export", "run", "--format", "mib", "--k", "99"], "99"),
    "generate no size": (["generate", "run", "--k", "99", "--prompts", "prompts.txt"], "99"),
    "generate a donor": (
        ["generate", "run", "--k", "1", "--prompts", "prompts.txt", "--donor", "noise=1"],
        "does not stand alone",
    ),
    "edit a metric": (
        ["edit", "run", "--k", "1", "--out", "e", "--metric", "demographic_parity_gap"],
        "compares groups",
    ),
    "edit a second task": (["edit", "run", "--k", "1", "--out", "e", "--second-task", "bad.jsonl"], "bad.jsonl:2"),
    "figure of every size": (["figure", "run", "--kind", "frontier", "--k", "1"], "leave it out for frontier"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    name: str, place: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, words = CASES[name]
    assert run([str(tiny_folder) if word == "MODEL" else word for word in arguments]) == 2
    err = capfd.readouterr().err.splitlines()[-1]
    assert words in err
    assert not STEERS.search(err)


@pytest.mark.parametrize("spoil", ["line", "target"])
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "run"],
        ["export", "run", "--format", "effects"],
        ["generate", "run", "--k", "1", "--prompts", "prompts.txt", "--donor", "mean=task"],
        ["edit", "run", "--k", "1", "--out", "e"],
        ["verify", "run"],
    ],
    ids=lambda command: command[0],
)
def test_data_that_changed_since_the_run_are_told_before_its_model_is_loaded(
    command: list[str], spoil: str, place: Path, stored: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = stored / "pairs.jsonl"  # where the run's configuration says
    kept = pairs.read_text()
    pairs.write_text(f"{kept}3\n" if spoil == "line" else kept.replace('"target": 0', '"target": 1', 1))
    try:
        assert run(command) == 2
    finally:
        pairs.write_text(kept)
    assert ("pairs.jsonl:13" if spoil == "line" else "the data differ") in capfd.readouterr().err


def test_the_loader_that_fails_is_the_one_that_commands_call(
    place: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", "--model", str(tiny_folder)]) == 1
    assert "weights are loaded" in capfd.readouterr().err


@pytest.mark.parametrize(
    "act",
    [
        lambda p: ["export", str(p / "run"), "--format", "effects"],
        lambda p: ["tasks", "show", str(p / "pairs.jsonl")],
        lambda p: ["measure", "--model", "MODEL", "--task", str(p / "pairs.jsonl")],
        lambda p: ["generate", str(p / "run"), "--k", "1", "--prompts", str(p / "prompts.txt"), "--quiet"],
        lambda p: ["report", str(p / "run")],
        lambda p: ["tasks", "show", str(p / HOSTILE)],
    ],
)
def test_hostile_texts_steer_no_terminal_and_no_reader(
    act: Callable[[Path], list[str]], stored: Path, tmp_path: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stored, tmp_path / "here")
    (tmp_path / "here" / "prompts.txt").write_text("the pilot said\u202e\n", encoding="utf-8")
    run([str(tiny_folder) if word == "MODEL" else word for word in act(tmp_path / "here")])
    shown = capfd.readouterr()
    assert not STEERS.search(shown.out + shown.err)
    for path in (tmp_path / "here" / "run").iterdir():
        if path.suffix in (".json", ".jsonl", ".csv", ".txt", ".html", ".yaml"):
            assert not STEERS.search(path.read_text(encoding="utf-8")), path.name


def test_escaped_json_holds_the_same_texts(stored: Path) -> None:
    ids = {json.loads(line)["id"] for line in (stored / "pairs.jsonl").read_text().splitlines()}
    kept = json.dumps(json.loads((stored / "run" / "examples.json").read_text()))
    assert all(json.dumps(one) in kept for one in ids)


def test_card_log_and_tables_of_an_edit_show_signs_written_out(tmp_path: Path) -> None:
    outcome = Outcome(task=HOSTILE, metric="nll", pairs=3, before=1.0, after=0.5)
    words: dict[str, Any] = dict.fromkeys(("base_model", "revision", "donor", "question", "command"), HOSTILE)
    card = Card(**words, components=[HOSTILE], outcomes=[outcome], largest_difference=0.0, notes=[HOSTILE])
    Log(tmp_path).say(f"done {HOSTILE}")
    drawing = Figure(vconcat=[alt.Chart(alt.Data(values=[])).mark_bar()], title=alt.Title([HOSTILE]))
    svg = to_bytes(drawing, "svg")
    for text in (card.text(), (tmp_path / "log.txt").read_text(encoding="utf-8"), svg.decode()):
        assert not STEERS.search(text)
        assert "\\u202etxt" in text
