"""Donors of whole runs: the task's own where none are asked for, and tensors of the user's own from a file."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import cotrace as ct
from cotrace import models
from cotrace.cli.main import run
from cotrace.donors import Noise, Vector, donor_source
from cotrace.errors import InputError
from cotrace.runs import RunConfig, prepare
from cotrace.runs.config_file import read_config
from cotrace.runs.result_files import StoredRun

FACTS = (
    ("The pilot said that {} is", "the nurse", "she"),
    ("{} said that", "the doctor", "he"),
    ("The baker said that {} said", "the pilot", "he"),
)
"""Prompt, subject and answer."""


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """A folder with counterfact.json in the authors' form."""
    rewrites = [
        {"prompt": prompt, "subject": subject, "target_true": {"str": true}, "target_new": {"str": "they"}}
        for prompt, subject, true in FACTS
    ]
    records = [{"case_id": number, "requested_rewrite": rewrite} for number, rewrite in enumerate(rewrites)]
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "counterfact.json").write_text(json.dumps(records))
    return folder


def traced(out: Path, *asked: str) -> list[dict[str, str]]:
    """The frontier of a run."""
    assert run(["trace", *asked, "--search", "topk", "--quiet", "--out", str(out)]) == 0
    with (out / "frontier.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_takes_the_donors_of_its_task_and_says_which(
    facts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The facts have no counterfactual: nothing but the task's own noise can be swapped in."""
    out = tmp_path / "run"
    question = ["--model", "shipped", "--task", "counterfact", "--data", str(facts), "--sites", "mlp_output"]
    rows = traced(out, *question, "--holdout", "0", "--evaluation", "none")
    model, task = ct.load_model("shipped"), ct.tasks.counterfact(facts)
    problem = ct.LanguageProblem(model, task, sites=["mlp_output"], holdout=0, donors=Noise(std=0.6045))
    expected = problem.effects(torch.ones(len(problem.space))).mean().item()
    assert float(rows[-1]["effect"]) == pytest.approx(expected, rel=1e-4)
    config = out / "config.yaml"
    assert yaml.safe_load(config.read_text())["donors"] == "noise=0.6045"
    assert StoredRun.read(out).config.donor_words == "noise=0.6045"
    again = tmp_path / "again"
    assert run(["trace", "--config", str(config), "--quiet", "--out", str(again)]) == 0
    assert (again / "selection.json").read_bytes() == (out / "selection.json").read_bytes()
    assert run(["verify", str(out), "--quiet"]) == 0
    assert run(["cite", str(out)]) == 0
    assert "donor noise=0.6045" in capfd.readouterr().out
    assert run(["export", str(out), "--format", "json", "--out", str(tmp_path / "e.json")]) == 0
    assert "noise=0.6045" in (tmp_path / "e.json").read_text()


def test_what_is_asked_for_wins_over_the_task(facts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    question = ["--model", "shipped", "--task", "counterfact", "--data", str(facts), "--sites", "mlp_output"]
    traced(out, *question, "--donors", "zero", "--holdout", "0", "--evaluation", "none")
    assert yaml.safe_load((out / "config.yaml").read_text())["donors"] == "zero"


def test_an_older_config_keeps_the_donors_that_it_names(facts: Path, tmp_path: Path) -> None:
    """Runs have always written them: `counterfactual` there is no default that a task may change."""
    older = tmp_path / "config.yaml"
    older.write_text(f"model: shipped\ntask: counterfact\ndata: {facts}\ndonors: counterfactual\n")
    with pytest.raises(InputError, match="'counterfactual', which donors='counterfactual' needs"):
        prepare.prepare(read_config(older))
    older.write_text(f"model: shipped\ntask: counterfact\ndata: {facts}\n")
    assert read_config(older).donors is None
    assert read_config(older).donor_words == "the task's own"


def tensors(space: Any, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(width, generator=generator) for name in space.names}


@pytest.fixture
def heads(tmp_path: Path, tiny_folder: Path) -> dict[str, torch.Tensor]:
    """A value for each head of the tiny model, lying in v.safetensors."""
    model = ct.load_model(str(tiny_folder))
    config = model.module.config
    values = tensors(model.space((ct.components.Site.HEAD_OUTPUT,)), config.n_embd // config.n_head)
    save_file(values, tmp_path / "v.safetensors")
    return values


def test_a_search_swaps_in_the_tensors_of_a_file(
    heads: dict[str, torch.Tensor],
    tiny_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    question = ["--model", str(tiny_folder), "--task", str(pairs_file), "--sites", "head_output", "--holdout", "0"]
    rows = traced(Path("run"), *question, "--donors", "vector=v.safetensors", "--evaluation", "none")
    problem = ct.LanguageProblem(
        ct.load_model(str(tiny_folder)),
        ct.Task.from_jsonl(pairs_file),
        sites=["head_output"],
        holdout=0,
        donors=Vector(values=heads),
    )
    for row in rows:
        expected = problem.effects(row["components"].split()).mean().item()
        assert float(row["effect"]) == pytest.approx(expected, abs=1e-5)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["donors"] == f"vector={tmp_path.resolve() / 'v.safetensors'}"
    monkeypatch.chdir(tiny_folder)
    assert run(["verify", str(tmp_path / "run"), "--quiet"]) == 0
    save_file({name: value + 1 for name, value in heads.items()}, tmp_path / "v.safetensors")
    capfd.readouterr()
    assert run(["verify", str(tmp_path / "run"), "--quiet"]) == 2
    said = capfd.readouterr().err
    assert f"the donor differs from that of {tmp_path / 'run'}: sha256" in said
    assert "Traceback" not in said


def test_a_path_in_a_config_is_of_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    save_file({"L0.head0": torch.zeros(2)}, tmp_path / "own" / "v.safetensors")
    config = tmp_path / "own" / "config.yaml"
    config.write_text("model: shipped\ntask: demo_bias\ndonors: vector=v.safetensors\n")
    assert read_config(config).donors == f"vector={tmp_path.resolve() / 'own' / 'v.safetensors'}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero").mkdir()
    config.write_text("model: shipped\ntask: demo_bias\ndonors: zero\n")
    (tmp_path / "own" / "zero").mkdir()
    assert read_config(config).donors == "zero"


BAD: dict[str, tuple[dict[str, torch.Tensor] | bytes | None, str]] = {
    "missing": (None, "cannot read it"),
    "no safetensors": (b"not tensors", "cannot read it"),
    "no component": ({"head 3": torch.zeros(8)}, "'head 3' is not a component"),
    "whole numbers": ({"L0.head0": torch.zeros(8).long()}, "L0.head0 is of type torch.int64"),
    "not finite": ({"L0.head0": torch.tensor([0.0, float("nan")])}, "L0.head0 holds values that are not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_donor_is_one_line_before_the_model_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, words = BAD[name]
    file = tmp_path / "v.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=words) as caught:
        prepare.prepare(RunConfig(model="shipped", task="demo_bias", donors=f"vector={file}"))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: {k: v for k, v in values.items() if k != "L1.head0"}, r"no tensor for L1\.head0"),
        (lambda values: values | {"L1.head0": torch.zeros(3)}, r"L1\.head0 has shape \[3\], not"),
    ],
)
def test_a_file_of_other_components_or_shapes_is_one_line(
    change: Any,
    words: str,
    heads: dict[str, torch.Tensor],
    tiny_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    save_file(change(heads), tmp_path / "v.safetensors")
    question = ["--model", str(tiny_folder), "--task", str(pairs_file), "--sites", "head_output", "--quiet"]
    asked = [*question, "--donors", f"vector={tmp_path / 'v.safetensors'}", "--out", str(tmp_path / "run")]
    assert run(["trace", *asked]) == 2
    said = capfd.readouterr().err.strip()
    assert re.search(words, said)
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_source_of_a_file_is_the_same_in_python(heads: dict[str, torch.Tensor], tmp_path: Path) -> None:
    source = donor_source(f"vector={tmp_path / 'v.safetensors'}")
    assert isinstance(source, Vector)
    assert source.values.keys() == heads.keys()
    assert all(torch.equal(source.values[name], value) for name, value in heads.items())
