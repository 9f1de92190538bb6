"""No option is passed over in silence: what is typed arrives where it is used, for every option of every command."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from cotrace import models, tasks
from cotrace.batches import ALIGNMENTS
from cotrace.cli import campaigns as again
from cotrace.cli import campaigns as campaign
from cotrace.cli import edits, handing_out, inspection, judging, result_commands, runner, search_commands
from cotrace.cli import inspection as task_commands
from cotrace.cli import readings as carry
from cotrace.cli import readings as explaining
from cotrace.cli.main import COMMANDS, run
from cotrace.cli.options import Carrying, Editing, Judging
from cotrace.errors import CotraceError
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair, Task
from cotrace.runs import RunConfig, prepare
from cotrace.runs.config import SourceOptions, WorkerOptions
from tests import tiny


class Arrived(CotraceError):
    """Thrown where the options have been taken: no more is needed."""


PROBLEM: dict[str, tuple[str, Any]] = {
    "sites": ("mlp_output,head_output", ["mlp_output", "head_output"]),
    "donors": ("counterfactual", "counterfactual"),
    "metric": ("probability", "probability"),
    "mode": ("keep", "keep"),
    "direction": ("minimise", "minimise"),
    "align": ("ends", "ends"),
    "roles": ("last,subject", ("last", "subject")),
    "positions": ("prompt+answer", "prompt+answer"),
    "prepend_bos": ("yes", "yes"),
    "template_options": ("false", {"enable_thinking": False}),
    "holdout": ("0.25", 0.25),
    "audit": ("0.125", 0.125),
    "split_by": ("group", "group"),
    "search_pairs": ("7", 7),
    "judge_pairs": ("all", "all"),
    "layers": ("0..1", "0..1"),
    "seed": ("5", 5),
    "batch_tokens": ("123", 123),
    "memory": ("2GB", "2GB"),
    "checkpointing": ("on", "on"),
    "packing": ("plain", "plain"),
}
"""Field -> what is typed, and what the problem is given."""
MODEL: dict[str, tuple[str, Any]] = {
    "revision": ("r1", "r1"),
    "dtype": ("float64", "float64"),
    "device": ("cuda:3", "cuda:3"),
    "device_map": ("auto", "auto"),
    "offload_folder": ("off", str(Path("off").resolve())),
    "quantise": ("8bit", "8bit"),
    "gguf": ("small.gguf", "small.gguf"),
    "trust_remote_code": ("", True),
}
TASK: dict[str, tuple[str, Any]] = {
    "data": ("somewhere", "somewhere"),
    "split": ("dev", "dev"),
    "conventions": ("paper", "paper"),
    "task_options": ("9", 9),
}
TYPED = {"task_options": "task-option.size", "template_options": "template-option.enable_thinking"}
CALLED = {"gguf": "gguf_file", "task_options": "size", "template_options": "template_arguments"}
FEATURES = {"dictionaries", "dictionaries_of"}
"""Fields that need a folder of dictionaries: their own tests type them."""
HANDS = {"workers": 31, "ray": "head:6379", "worker-gpus": 0.125, "max-restarts": 37}
"""Who computes."""
SEARCH = {
    "constraints",
    "plus",
    "searches",
    "max_size",
    "cost_weights",
    "search_options",
    "evaluation",
    "threads",
    "checkpoint_every_s",
    "out",
}
"""Fields of the search and of the run, which need no problem; the other tests of the commands have them."""


def words(options: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    for name, (value, _) in options.items():
        yield f"--{TYPED.get(name, name.replace('_', '-'))}"
        yield from [value] if value else []


def test_every_field_of_a_configuration_is_tried() -> None:
    hands = {name.replace("-", "_") for name in HANDS}
    tried = {"model", "task", *PROBLEM, *MODEL, *TASK, *SEARCH, *FEATURES, *hands}
    assert {field.name for field in fields(RunConfig)} == tried
    assert {field.name for field in fields(WorkerOptions)} == hands
    assert {field.name for field in fields(SourceOptions)} == {*MODEL, *TASK} - {"task_options"}


def test_the_command_line_has_every_alignment() -> None:
    assert get_args(get_args(get_type_hints(RunConfig, include_extras=True)["align"])[0]) == ALIGNMENTS


@pytest.mark.parametrize("command", ["trace", "compare"])
def test_what_is_asked_of_a_run_arrives(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}
    said = ({"role": "user", "content": "Who?"},)
    chat = PromptPair(id="chat", messages=said, counterfactual_messages=said, answers=("she", "he"), group="chat")
    task = Task(name="with a chat", pairs=(*tasks.load("demo_bias").pairs, chat))

    def load_task(name: str, **options: Any) -> Any:
        given.update(options, task=name)
        return task

    @wraps(models.load_model)
    def load_model(source: str, **options: Any) -> Any:
        given.update(options, model=source)
        return tiny.model("gpt2")

    @wraps(LanguageProblem.__init__)
    def problem(self: Any, model: Any, task: Any, **options: Any) -> None:
        given.update(options)
        raise Arrived("the problem is posed")

    monkeypatch.setattr(tasks, "load", load_task)
    monkeypatch.setattr(models, "load_model", load_model)
    monkeypatch.setattr(prepare, "outlook", lambda *_: None)  # which reads the model's configuration
    monkeypatch.setattr(LanguageProblem, "__init__", problem)
    monkeypatch.setattr(prepare.torch, "set_num_threads", lambda count: given.setdefault("threads", count))
    options = PROBLEM | MODEL | TASK | {"threads": ("3", 3)}
    assert run([command, "--model", "some/model", "--task", "some_task", *words(options)]) == 2
    assert "the problem is posed" in capfd.readouterr().err
    assert (given["model"], given["task"]) == ("some/model", "some_task")
    assert {name: given[CALLED.get(name, name)] for name in options} == {
        name: own for name, (_, own) in options.items()
    }


TARGETS: dict[str, tuple[Any, str]] = {
    "demo": (runner, "demo"),
    "trace": (runner, "answer"),
    "compare": (runner, "answer"),
    "resume": (runner, "resume"),
    "sweep": (campaign, "sweep"),
    "measure": (inspection, "measure"),
    "check": (inspection, "check"),
    "reproduce": (again, "reproduce"),
    "evaluate": (judging, "evaluate_run"),
    "explain": (explaining, "explain_run"),
    "transfer": (carry, "transfer"),
    "report": (handing_out, "report"),
    "figure": (handing_out, "figure"),
    "generate": (handing_out, "generated"),
    "edit": (edits, "edit"),
    "export": (handing_out, "export"),
    "diff": (inspection, "compare_runs"),
    "verify": (inspection, "verify_run"),
    "cite": (inspection, "cite_run"),
    "schema": (inspection, "print_schema"),
    "open_report": (handing_out, "open_report"),
    "show_task": (task_commands, "show_task"),
}
"""Command -> the function of the heavy module that it calls."""
ASKED: dict[str, dict[str, Any]] = {
    "demo": {"out": "o", "json": True},
    "trace": {"dry-run": True, "json": True},
    "compare": {"dry-run": True, "json": True},
    "resume": {"": "r", "batch-tokens": 77, "json": True, **HANDS},
    "sweep": {"": "g.yaml", "out": "o", "dry-run": True, "json": True, **HANDS},
    "measure": {"": ("m", "t"), "metric": "accuracy", "by": "group", "json": "j.json"},
    "reproduce": {
        "": "paper",
        "model": "m",
        "settings": "winobias",
        "methods": "topk",
        "search-pairs": 19,
        "max-size": 23,
        "seed": 29,
        "out": "o",
        "json": True,
    },
    "check": {
        "": "m",
        "task": "t",
        "donors": "zero",
        "align": "ends",
        "sites": ("residual",),
        "layers": "1..3",
        "json": "j.json",
        "row": True,
    },
    "evaluate": {
        "": "r",
        "level": "full",
        "k": 17,
        "search": "s",
        "selection": ("file",),
        "known": ("ioi",),
        "audit": True,
        "stability": 11,
        "folds": 5,
        "text": "t.txt",
        "side": ("a_task",),
        "smallest-p": 0.001,
        "judge-pairs": 21,
        "every-size": True,
        "intervals": True,
        "dry-run": True,
        "json": True,
        **HANDS,
    },
    "explain": {"": "r", "k": 17, "search": "s", "known": ("ioi",), "dry-run": True, "json": True},
    "transfer": {
        "": "r",
        "to": ("t1", "t2"),
        "k": 17,
        "search": "s",
        "data": "d",
        "metric": "accuracy",
        "direction": "minimise",
        "controls": 21,
        "json": "j.json",
    },
    "report": {"": "r", "redact": True, "language": "de", "search": "s", "out": "o", "json": True},
    "figure": {
        "": "r",
        "kind": "map",
        "format": "svg",
        "k": 17,
        "search": "s",
        "width": "column",
        "out": "o",
        "json": True,
    },
    "generate": {
        "": "r",
        "k": 17,
        "prompts": "p",
        "donor": "scale=0.5",
        "judge": "j:f",
        "max-new-tokens": 21,
        "temperature": 0.75,
        "samples": 4,
        "seed": 99,
        "json": True,
        "batch-size": 8,
        "search": "s",
        "model": "m",
        "out": "o",
    },
    "edit": {
        "": "r",
        "out": "o",
        "k": 17,
        "donor": "zero",
        "metric": "accuracy",
        "neutral": "n.txt",
        "second-task": ("t2",),
        "lm-eval": ("h",),
        "lm-eval-limit": 13,
        "search": "s",
        "model": "m",
        "json": True,
    },
    "export": {"": "r", "format": "csv", "k": 17, "search": "s", "out": "o", "json": True},
    "diff": {"": ("r", "r2"), "json": True},
    "verify": {"": "r", "examples": 19, "model": "m", "json": True},
    "cite": {"": "r", "json": True},
    "schema": {"": "trace"},
    "open_report": {"": "r", "json": True},
    "show_task": {
        "": "t",
        "data": "d",
        "split": "dev",
        "conventions": "paper",
        "model": "m",
        "most": 23,
        "align": "ends",
        "json": True,
    },
}
APART = {"show", "source", "options", "hands", "config", "opening", "sizes", "factors", "constraint"}
"""Parameters that other tests type: sizes, factors and constraints go with neither k nor donor."""
GROUPS = {"evaluate": Judging, "transfer": Carrying, "edit": Editing}
"""Command -> the class that holds most of its options, in its parameter ``asked``."""
SPELLED = {"as_json": "json", "to": "format", "form": "format", "target": "to"}


def test_every_command_and_parameter_is_tried() -> None:
    assert {*(command.__name__ for command in COMMANDS), "show_task", "open_report"} == {*TARGETS} == {*ASKED}
    for command in (*COMMANDS, search_commands.show_task, result_commands.open_report):
        asked = ASKED[command.__name__]
        own = [*inspect.signature(command).parameters]
        if "asked" in own:
            own[own.index("asked")] = "show"
            own += [field.name for field in fields(GROUPS[command.__name__])]
        named = [name for name in own if name not in APART]
        options = {SPELLED.get(name, name).replace("_", "-") for name in named}
        positional = (asked.get(""),) if isinstance(asked.get(""), str) else asked.get("", ())
        assert len(options - {*asked}) == len(positional), f"{command.__name__}: {options - {*asked}}"


@pytest.mark.parametrize("command", TARGETS)
def test_what_is_typed_arrives(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    module, name = TARGETS[command]
    real = inspect.signature(getattr(module, name))

    def record(*arguments: Any, **named: Any) -> None:
        real.bind(*arguments, **named)
        given.extend(flat([arguments, named]))

    monkeypatch.setattr(module, name, record)
    asked = ASKED[command]
    first = {"show_task": ["tasks", "show"], "open_report": ["open"]}.get(command, [command])
    if command in ("trace", "compare"):
        first += ["--model", "m", "--task", "t"]
    silent = [] if command == "schema" else ["--quiet"]
    assert run([*first, *typed(asked), *silent]) == 0, capfd.readouterr().err
    missing = [value for value in flat(list(asked.values())) if value is not True and value not in given]
    assert missing == (["paper"] if command == "reproduce" else [])  # the only thing there is to reproduce
    flags = [value for value in asked.values() if value is True]
    quiet = 0 if command in ("cite", "show_task", "schema") else 1  # these have nothing that could be left unsaid
    assert sum(value is True for value in given) == len(flags) + quiet


def typed(asked: Mapping[str, Any]) -> Iterator[str]:
    for option, value in asked.items():
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            yield from [f"--{option}"] if option else []
            yield from [] if one is True else [str(one)]


def flat(value: Any) -> Iterator[Any]:
    """The plain values in arguments, however deep."""
    if is_dataclass(value) and not isinstance(value, type):
        yield from flat({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        for own in value.values():
            yield from flat(own)
    elif isinstance(value, (list, tuple)):
        for own in value:
            yield from flat(own)
    else:
        yield value


def test_what_is_asked_of_an_evaluation_arrives(
    tiny_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given: dict[str, Any] = {}

    def judged(problem: Any, frontiers: Any, **asked: Any) -> Any:
        given.update(asked)
        raise Arrived("the evaluation is asked for")

    question = ["--model", str(tiny_folder), "--task", str(pairs_file), "--holdout", "0.25", "--seed", "6", "--quiet"]
    question += ["--direction", "maximise"]
    assert run(["trace", *question, "--audit", "0.2", "--search", "topk", "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "own").write_text("L0.head1")
    (tmp_path / "lines.txt").write_text("A line.\n")
    text = str(tmp_path / "lines.txt")
    monkeypatch.setattr(judging, "evaluate", judged)
    asked = ["--level", "full", "--k", "3", "--audit", "--stability", "4", "--text", text, "--smallest-p", "0.25"]
    asked += ["--side", str(pairs_file), "--every-size", "--selection", str(tmp_path / "own")]
    assert run(["evaluate", str(tmp_path / "run"), *asked, "--quiet"]) == 2
    assert "the evaluation is asked for" in capfd.readouterr().err
    assert given.pop("search").name == "topk"
    assert [side.name for side in given.pop("side")] == [pairs_file.stem]
    assert {name: own.components for name, own in given.pop("against").items()} == {"own": ["L0.head1"]}
    del given["progress"]
    told = {"level": "full", "k": 3, "pairs": "audit", "text": text, "stability": 4, "smallest_p": 0.25, "seed": 6}
    assert given == told | {"every_size": True, "intervals": False}


def test_a_figure_is_drawn_as_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def drawn(inputs: Any, kind: str, form: str, **asked: Any) -> bytes:
        given.update(asked, inputs=inputs, kind=kind, form=form)
        return b"drawn"

    monkeypatch.setattr(handing_out, "report_inputs", lambda run, *, search: (run, search))
    monkeypatch.setattr(handing_out.reports, "drawn", drawn)
    out = tmp_path / "f.svg"
    handing_out.figure("r", kind="map", form="svg", k=4, search="s", width="column", out=str(out), quiet=True)
    assert given == {"inputs": ("r", "s"), "kind": "map", "form": "svg", "k": 4, "width": "column"}
    assert out.read_bytes() == b"drawn"


def test_what_is_asked_is_said_before_anything_heavy_is_loaded() -> None:
    """The commands and their screen load neither torch nor pydantic: help, and the first line, come at once."""
    heavy = "{'torch', 'pydantic', 'pandas'} & {*sys.modules}"
    code = f"import sys; import cotrace.cli.main, cotrace.cli.console; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\n"
