"""Every wrong input: one line on stderr that names the thing, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cotrace.cli.main import run
from tests.conftest import records, write_lines


@dataclass(frozen=True)
class Place:
    """Where a wrong input is made: a folder of its own, a good model, good pairs."""

    folder: Path
    model: Path
    pairs: Path

    def lines(self, *rows: object) -> str:
        """A JSON Lines file of these values."""
        return str(write_lines(self.folder / "own.jsonl", list(rows)))

    def text(self, name: str, content: str) -> str:
        """A file with this text."""
        (self.folder / name).write_text(content)
        return str(self.folder / name)

    def trace(self, *options: str, model: str | None = None, task: str | None = None) -> list[str]:
        """A trace that would work but for the options."""
        return ["trace", "--model", model or str(self.model), "--task", task or str(self.pairs), *options]


@pytest.fixture
def place(tmp_path: Path, tiny_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_folder, pairs_file)


Case = tuple[Callable[[Place], list[str]], tuple[str, ...]]


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in records()[0].items() if key != name}


def changed(**fields: object) -> dict[str, object]:
    return records()[0] | fields


def config(place: Place, text: str) -> list[str]:
    return ["trace", "--config", place.text("config.yaml", text)]


def broken_model(place: Place, *, tokenizer: bool = True, weight: float | None = None) -> str:
    """A copy of the tiny model without its tokenizer, or with one weight that is not a number."""
    folder = place.folder / "broken"
    shutil.copytree(place.model, folder)
    if not tokenizer:
        for path in folder.glob("*token*"):
            path.unlink()
    if weight is not None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors["transformer.wte.weight"] += weight
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def damaged(place: Place, file: str, content: bytes | None) -> str:
    """A copy of the tiny model with other bytes in one file, or the first half of them."""
    folder = place.folder / "damaged"
    shutil.copytree(place.model, folder)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    return str(folder)


def damaged_vector(place: Place, content: bytes) -> str:
    (place.folder / "v.safetensors").write_bytes(content)
    return f"vector={place.folder / 'v.safetensors'}"


NO_TENSORS = {
    "empty": b"",
    "of other bytes": b"\xff" * 500,
    "with a broken head": b"\x10" + bytes(7) + b"{not json at all}",
}
FLOAT4 = b'{"L0.head0":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}'


def folder_with(place: Place, name: str) -> list[str]:
    (place.folder / "full").mkdir()
    (place.folder / "full" / name).write_text("before")
    return ["--out", "full"]


CASES: dict[str, Case] = {
    "no such command": (lambda p: ["trcae"], ("trcae", "trace", "demo")),
    "no such option": (lambda p: p.trace("--max-sise", "2"), ("--max-sise", "--max-size")),
    "no model": (lambda p: ["trace", "--task", str(p.pairs)], ("--model",)),
    "no task": (lambda p: ["trace", "--model", str(p.model)], ("--task",)),
    "no value": (lambda p: p.trace("--max-size"), ("--max-size",)),
    "too many words": (lambda p: p.trace("more"), ("more",)),
    "not a number": (lambda p: p.trace("--holdout", "half"), ("--holdout", "half")),
    "not a choice": (lambda p: p.trace("--mode", "swop"), ("--mode", "swop", "swap")),
    "unknown model id": (lambda p: p.trace(model="no-such-model"), ("no-such-model",)),
    "unknown model folder": (lambda p: p.trace(model="./nowhere"), ("nowhere",)),
    "folder without a model": (lambda p: p.trace(model=str(p.folder)), ("config.json",)),
    "unknown dtype": (lambda p: p.trace("--dtype", "float31"), ("float31", "float32")),
    "unknown device": (lambda p: p.trace("--device", "quantum"), ("quantum",)),
    "unknown task": (lambda p: p.trace(task="winobas"), ("winobas", "winobias", "professions")),
    "task without its data": (lambda p: p.trace(task="winobias"), ("winobias", "--data")),
    "data that is not there": (lambda p: p.trace("--data", "nowhere", task="winobias"), ("nowhere",)),
    "data for a task that has its own": (lambda p: p.trace("--data", ".", task="demo_bias"), ("demo_bias", "--data")),
    "unknown split": (lambda p: p.trace("--split", "tset", "--data", ".", task="winobias"), ("tset", "test", "dev")),
    "split of a task without": (lambda p: p.trace("--split", "dev"), ("split",)),
    "unknown option of a task": (
        lambda p: p.trace("--task-option.sise", "3", task="agreement"),
        ("agreement", "sise", "size"),
    ),
    "option of no task": (lambda p: p.trace("--task-option", "3", task="agreement"), ("--task-option",)),
    "unknown site": (lambda p: p.trace("--sites", "head_ouput"), ("head_ouput", "head_output", "mlp_neuron")),
    "the same site twice": (lambda p: p.trace("--sites", "head_output,head_output"), ("head_output", "once")),
    "unknown metric": (lambda p: p.trace("--metric", "log_ods"), ("log_ods", "log_odds", "probability")),
    "unknown donors": (lambda p: p.trace("--donors", "counterfactul"), ("counterfactul", "counterfactual")),
    "unknown search": (lambda p: p.trace("--search", "persuit"), ("persuit", "pursuit", "greedy")),
    "the same search twice": (lambda p: p.trace("--search", "topk,topk"), ("topk", "once")),
    "option of no search": (lambda p: p.trace("--option.l1", "3"), ("l1",)),
    "option of another search": (lambda p: p.trace("--option.random.draws", "3"), ("random", "pursuit")),
    "unknown option of a search": (
        lambda p: p.trace("--search", "random", "--option.random.drows", "3"),
        ("drows", "draws"),
    ),
    "wrong option of a search": (
        lambda p: p.trace("--search", "random", "--option.random.draws", "many"),
        ("random", "many"),
    ),
    "negative penalty": (lambda p: p.trace("--search", "pgbct", "--option.pgbct.l1=-1"), ("l1", "-1")),
    "max size 0": (lambda p: p.trace("--max-size", "0"), ("max size 0", "1")),
    "max size above N": (lambda p: p.trace("--max-size", "5"), ("max size 5", "1..4")),
    "holdout of all": (lambda p: p.trace("--holdout", "1"), ("holdout", "1")),
    "negative holdout": (lambda p: p.trace("--holdout", "-0.1"), ("holdout", "-0.1")),
    "batch of no tokens": (lambda p: p.trace("--batch-tokens", "0"), ("batch", "0")),
    "file that is not there": (lambda p: p.trace(task="nowhere.jsonl"), ("nowhere.jsonl",)),
    "line that is not JSON": (lambda p: p.trace(task=p.text("a.jsonl", '{"base": \n')), ("a.jsonl:1",)),
    "second line wrong": (lambda p: p.trace(task=p.lines(records()[0], [1])), ("own.jsonl:2",)),
    "pair without answers": (lambda p: p.trace(task=p.lines(without("answers"))), ("own.jsonl:1", "answers")),
    "pair without a counterfactual": (
        lambda p: p.trace(task=p.lines(without("counterfactual"))),
        ("pilot-nurse", "counterfactual"),
    ),
    "field of another name": (lambda p: p.trace(task=p.lines(changed(anwser="x"))), ("own.jsonl:1", "anwser")),
    "target outside the answers": (lambda p: p.trace(task=p.lines(changed(target=2))), ("own.jsonl:1", "target", "2")),
    "answers that tokenise to nothing": (
        lambda p: p.trace("--holdout", "0", task=p.lines(changed(answers=[" she", " \u2026"]))),
        ("pilot-nurse", "tokenises to nothing"),
    ),
    "pairs of different length": (
        lambda p: p.trace("--holdout", "0", task=p.lines(changed(counterfactual="the tall nurse said that"))),
        ("pilot-nurse", "align"),
    ),
    "the same id twice": (lambda p: p.trace(task=p.lines(records()[0], records()[0])), ("own.jsonl:2", "pilot-nurse")),
    "empty file": (lambda p: p.trace(task=p.text("empty.jsonl", "")), ("empty.jsonl", "empty")),
    "a size with a minus": (lambda p: p.trace("--memory", "-4GB"), ("memory", "-4GB", "write 4GB")),
    "a seed below 0": (lambda p: p.trace("--seed", "-1"), ("seed is -1", "at least 0")),
    "a pair too few to hold one out": (lambda p: p.trace("--holdout", "0.5", task=p.lines(records()[0])), ("1",)),
    "no tokenizer": (lambda p: p.trace(model=broken_model(p, tokenizer=False)), ("tokenizer",)),
    "weights that are cut short": (
        lambda p: p.trace(model=damaged(p, "model.safetensors", None)),
        ("damaged", "weights are damaged or cut short", "fetch or save the model again"),
    ),
    **{
        f"weights that are {name}": (
            lambda p, content=content: p.trace(model=damaged(p, "model.safetensors", content)),
            ("damaged", "weights are damaged or cut short", "fetch or save the model again"),
        )
        for name, content in NO_TENSORS.items()
    },
    **{
        f"a vector {name}": (
            lambda p, content=content: p.trace("--donors", damaged_vector(p, content)),
            ("--donors vector=", "v.safetensors", "cannot read it", "give a .safetensors file"),
        )
        for name, content in NO_TENSORS.items()
    },
    "a vector of four bits": (
        lambda p: p.trace("--donors", damaged_vector(p, len(FLOAT4).to_bytes(8, "little") + FLOAT4 + bytes(4))),
        ("v.safetensors", "L0.head0 is of type", "give floating-point numbers"),
    ),
    "scores that are not finite": (lambda p: p.trace(model=broken_model(p, weight=float("nan"))), ("finite",)),
    "output folder of a run": (lambda p: p.trace(*folder_with(p, "config.yaml")), ("full", "a run", "--out")),
    "output folder with files": (lambda p: p.trace(*folder_with(p, "notes.txt")), ("full", "files", "--out")),
    "output folder of a demo": (lambda p: ["demo", *folder_with(p, "config.yaml")], ("full", "a run", "--out")),
    "output that is a file": (lambda p: p.trace("--out", str(p.pairs)), ("pairs.jsonl", "is a file")),
    "output below a file": (lambda p: p.trace("--out", str(p.pairs / "a")), ("pairs.jsonl", "not a folder")),
    "config that is not there": (lambda p: ["trace", "--config", "nowhere.yaml"], ("nowhere.yaml", "No such file")),
    "config that is not YAML": (lambda p: config(p, "model: a\ntask: [b\n"), ("config.yaml, line",)),
    "config that is a list": (lambda p: config(p, "- a\n"), ("config.yaml, line 1", "name: value")),
    "config that is empty": (lambda p: config(p, ""), ("config.yaml, line 1", "name: value")),
    "config with an unknown field": (
        lambda p: config(p, "model: a\nmax_sise: 1\n"),
        ("line 2", "max_sise", "max_size"),
    ),
    "config with a wrong value": (
        lambda p: config(p, "model: a\ntask: b\nmax_size: many\n"),
        ("line 3", "max_size", "many"),
    ),
    "config without a task": (lambda p: config(p, "model: a\n"), ("task", "missing")),
    "config with code": (lambda p: config(p, "model: !!python/object/apply:os.getcwd []\n"), ("line 1", "not YAML")),
    "tasks show of no task": (lambda p: ["tasks", "show"], ("--name",)),
    "tasks show of an unknown task": (lambda p: ["tasks", "show", "winobas"], ("winobas", "winobias")),
    "tasks show of no pair": (lambda p: ["tasks", "show", "demo_bias", "--most", "0"], ("most", "0")),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_line_and_exit_code_2(place: Place, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, words = CASES[name]
    arguments = make(place)
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")}
    code = run([*arguments, "--quiet"] if arguments[0] == "trace" else arguments)
    out, err = capfd.readouterr()
    assert code == 2, err
    assert err.startswith("cotrace: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    for word in words:
        assert word in err
    assert {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")} == before, "something was written"


def test_the_good_trace_that_the_cases_spoil_works(place: Place) -> None:
    assert run([*place.trace("--search", "topk", "--direction", "maximise", "--quiet", "--out", "good")]) == 0
    assert json.loads(Path("good/selection.json").read_text())["chosen"]["search"] == "topk"
