"""``--json`` on every command: one object on stdout that keeps to its documented schema, and lists by commas."""

from __future__ import annotations

import inspect
import json
import runpy
import subprocess
import webbrowser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from cotrace.cli.main import COMMANDS, build, run, spelled
from cotrace.cli.options import Said, Show
from cotrace.cli.replies import REPLIES, reply, schemas

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on the model that ships."""
    out = tmp_path_factory.mktemp("json") / "run"
    asked = ["--model", "shipped", "--task", "demo_agreement", "--search", "topk", "--max-size", "4", "--out", str(out)]
    assert run(["trace", *asked, "--quiet"]) == 0
    return out


def told(capfd: pytest.CaptureFixture[str], name: str, *arguments: str, form: int = 0) -> Any:
    """What a command prints with ``--json``, held against its JSON Schema."""
    capfd.readouterr()
    assert run([*arguments, "--json"]) == 0, capfd.readouterr().err
    printed = capfd.readouterr().out
    assert printed.count("\n") == 1
    data = json.loads(printed)
    schema = schemas(name)[name]
    jsonschema.validate(data, schema["anyOf"][form] if "anyOf" in schema else schema)
    assert data["schema"] == 1
    return data


def test_every_command_has_the_option_and_a_schema() -> None:
    """By the signatures: a command without ``--json`` would be one without a Show, or a ``json`` of its own."""
    names = {command.__name__ for command in COMMANDS} - {"schema"} | {"open", "tasks", "tasks show"}
    assert names == set(REPLIES)
    for command in COMMANDS:
        parameters = inspect.signature(command).parameters
        shown = parameters["show"].default if "show" in parameters else None
        assert (
            command.__name__ == "schema"
            or isinstance(shown, Show)
            or (isinstance(shown, Said) and "json" in parameters)
        )


def test_what_looks_at_a_run_answers_in_json(
    traced: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_, selection = str(traced), json.loads((traced / "selection.json").read_text())
    assert told(capfd, "resume", "resume", run_)["chosen"]["components"] == selection["chosen"]["components"]
    assert Path(told(capfd, "report", "report", run_)["written"]) == traced / "report.html"
    figure = told(capfd, "figure", "figure", run_, "--kind", "map", "--out", str(tmp_path / "map.png"))
    assert figure["bytes"] == (tmp_path / "map.png").stat().st_size
    names = told(capfd, "export", "export", run_, "--format", "names")
    assert names["content"].split() == selection["chosen"]["components"]
    assert told(capfd, "export", "export", run_, "--out", str(tmp_path / "s.json"))["written"]
    assert told(capfd, "verify", "verify", run_)["outcome"] in ("same", "within tolerance")
    assert told(capfd, "cite", "cite", run_)["entries"][0].startswith("@")
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda where: bool(seen.append(where)) or True)
    opened = told(capfd, "open", "open", run_)
    assert seen == [opened["report"]]
    assert opened["report"] == (traced / "report.html").resolve().as_uri()
    same = told(capfd, "diff", "diff", run_, run_)
    assert same["agree"]
    assert same["paired"][0]["overlap"] == 1
    assert same["paired"][0]["difference"] == 0


def test_what_computes_answers_in_json(traced: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "shipped", "--task", "demo_agreement", "--search", "topk"]
    plan = told(capfd, "trace", "trace", *asked, "--dry-run", form=1)
    assert plan["plan"]["components"] == 40
    assert plan["predicted_seconds"] > 0
    assert told(capfd, "evaluate", "evaluate", str(traced), "--dry-run", form=1)["steps"]
    assert told(capfd, "evaluate", "evaluate", str(traced), "--level", "quick")["evaluation"]["verdict"]
    assert told(capfd, "measure", "measure", "shipped", "demo_agreement")["rows"][0]["pairs"] == 120
    assert told(capfd, "check", "check", "shipped", "--sites", "head_output")["ok"]
    narrowed = told(capfd, "check", "check", "shipped", "--sites", "L1.head2,mlp_output", "--layers", "1..2")
    assert narrowed["ok"]
    assert narrowed["layers"] == {"head_output": [1], "mlp_output": [1, 2]}
    (tmp_path / "prompts.txt").write_text("the pilot\n")
    asked = [str(traced), "--k", "1", "--prompts", str(tmp_path / "prompts.txt"), "--max-new-tokens", "2"]
    assert told(capfd, "generate", "generate", *asked)["rows"]
    edit = told(capfd, "edit", "edit", str(traced), "--k", "1", "--out", str(tmp_path / "edited"))
    assert edit["outcomes"][0]["pairs"] > 0
    assert Path(edit["written"]).is_dir()


def test_tasks_answer_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert "winobias" in [one["name"] for one in told(capfd, "tasks", "tasks")["tasks"]]
    shown = told(capfd, "tasks show", "tasks", "show", "demo_bias", "--most", "2", "--model", "shipped")
    assert len(shown["shown"]) == 2
    assert shown["tokens"]


def test_a_reply_of_another_form_is_not_printed() -> None:
    with pytest.raises(ValidationError):
        reply("open", {"report": "x", "opened": True, "more": 1})
    with pytest.raises(ValidationError):
        reply("open", {"report": "x"})


def test_the_page_names_every_command_and_field() -> None:
    """The page is what ``python scripts/json_page.py`` writes."""
    page = (ROOT / "docs" / "json.md").read_text()
    assert page == runpy.run_path(str(ROOT / "scripts" / "json_page.py"))["page"]()
    for command, forms in REPLIES.items():
        section = page.partition(f"## `{command}`")[2].partition("\n## ")[0]
        for name in (name for form in forms for name in form.model_fields if name != "version"):
            assert f"`{name}`" in section, f"{command}: {name}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["measure", "m", "t", "--json"], ["measure", "m", "t", "--json=-"]),
        (["check", "m", "--json", "--row"], ["check", "m", "--json=-", "--row"]),
        (["check", "m", "--json", "-"], ["check", "m", "--json=-"]),
        (["measure", "m", "t", "--json", "f.json"], ["measure", "m", "t", "--json", "f.json"]),
        (["trace", "--json"], ["trace", "--json"]),
    ],
)
def test_json_without_a_file_is_stdout(typed: list[str], meant: list[str]) -> None:
    assert spelled(typed) == meant


def test_lists_are_separated_by_commas(traced: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two sizes and two factors are four edits; a word that is no number is named; two fields break measures down."""
    out = str(tmp_path / "edited")
    asked = ["edit", str(traced), "--out", out, "--sizes", "1,2", "--factors", "0, 0.5", "--constraint", "neutral<=90%"]
    found = told(capfd, "edit", *asked)
    points = {(point["k"], point["donor"]) for point in found["tradeoff"]["points"]}
    assert points == {(k, f"scale={factor}") for k in (1, 2) for factor in ("0", "0.5")}
    assert run(["edit", str(traced), "--out", out + "2", "--sizes", "1,two"]) == 2
    assert "'two' is not a whole number" in capfd.readouterr().err
    rows = told(capfd, "measure", "measure", "shipped", "demo_bias", "--by", "group,target")["rows"]
    assert {row["field"] for row in rows} == {"", "group", "target"}


def test_completion_is_a_script_that_the_shell_takes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "bash"]) == 0
    script = capfd.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for command in build():
        assert command.startswith("-") or command in script
