"""The gallery's audits: complete, with pairs that can be read and commands that the command line takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from cotrace import models
from cotrace.cli.main import run
from cotrace.errors import CotraceError, InputError
from cotrace.prompts.pair_files import read_pairs
from cotrace.runs import prepare
from gallery import __main__ as gallery
from gallery.__main__ import command, main, pairs_file
from gallery.recipes import AUDITS, Audit
from tests.tiny import SHARED, needs_shared


def given(out: Path, **options: Any) -> argparse.Namespace:
    base = {
        "model": "some/model",
        "gguf": None,
        "data": str(SHARED / "data"),
        "out": str(out),
        "runs": str(out),
        "full": False,
    }
    return argparse.Namespace(**base | {"fewest": 1} | options)


def folders(path: Path) -> list[str]:
    return ["--out", str(path), "--runs", str(path / "runs")]


def test_at_least_eight_audits_each_with_what_it_does_not_show() -> None:
    assert len({audit.name for audit in AUDITS}) == len(AUDITS) >= 8
    assert all(audit.question.endswith(("?", ".")) and audit.not_shown for audit in AUDITS)
    assert sum(audit.constrained is not None for audit in AUDITS) == 1
    assert sum(audit.pairs is not None for audit in AUDITS) == 2


@pytest.mark.parametrize("audit", [audit for audit in AUDITS if audit.pairs], ids=lambda audit: audit.name)
def test_pairs_of_our_own_are_pairs(audit: Audit, tmp_path: Path) -> None:
    path = pairs_file(audit, given(tmp_path))
    assert path is not None
    pairs = read_pairs(path)
    assert len(pairs) >= 24
    assert len({pair.split_group for pair in pairs}) >= 4, "a split needs groups"
    for pair in pairs:
        assert pair.messages != pair.counterfactual_messages
        words = json.dumps(pair.messages), json.dumps(pair.counterfactual_messages)
        assert sum(a != b for a, b in zip(words[0].split(), words[1].split(), strict=True)) == 1


@needs_shared
@pytest.mark.parametrize(
    "audit", [audit for audit in AUDITS if not audit.known and not audit.constrained], ids=lambda audit: audit.name
)
@pytest.mark.parametrize("full", [False, True])
def test_every_command_comes_as_far_as_the_model(
    audit: Audit, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def arrived(*_: Any, **options: Any) -> Any:
        raise CotraceError(f"the model is asked for, {options['gguf_file']}")

    monkeypatch.setattr(models, "load_model", arrived)
    monkeypatch.setattr(prepare, "outlook", lambda *_: None)  # which reads the configuration
    asked = command(audit, given(tmp_path, full=full, gguf="small.gguf"), tmp_path / "run")
    assert run(asked) == 2
    assert "the model is asked for, small.gguf" in capsys.readouterr().err


def test_without_data_only_what_needs_none_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path), *folders(tmp_path), "--only", "winobias"]) == 0
    assert "winobias: left out, as it needs --data" in capsys.readouterr().out


def test_an_audit_that_cannot_be_run_is_said_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_few(*_: Any) -> int:
        raise InputError("the model knows 5 of these facts, fewer than 12")

    monkeypatch.setattr(gallery, "traced", too_few)
    assert main(["--model", "m", *folders(tmp_path), "--only", "binding,chat_bias"]) == 1
    shown = capsys.readouterr().out
    assert "binding: the model knows 5 of these facts" in shown
    assert "failed: binding, chat_bias" in shown


@pytest.mark.slow
def test_an_audit_is_run_once_and_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bias = Audit(
        name="bias",
        question="Which heads?",
        task="demo_bias",
        not_shown="Anything else.",
        options={"max_size": 2, "search_pairs": 8},
    )
    monkeypatch.setattr(gallery, "AUDITS", (bias,))
    asked = ["--model", "shipped", *folders(tmp_path)]
    assert main(asked) == 0
    page = (tmp_path / "bias.md").read_text()
    assert "Which heads?" in page
    assert "cotrace trace --model shipped --task demo_bias --search-pairs 8 --max-size 2" in page
    assert "## What is not shown\n\nAnything else." in page
    assert "## What the best 2 do\n\n- L" in page
    assert str(tmp_path) not in page, "no folder of this machine"
    assert b"<svg" in (tmp_path / "bias.svg").read_bytes()
    report = (tmp_path / "reports/bias.html").read_text()
    assert "<html" in report
    assert str(tmp_path) not in report
    before = (tmp_path / "runs/bias/frontier.csv").stat().st_mtime_ns
    assert main(asked) == 0
    assert (tmp_path / "runs/bias/frontier.csv").stat().st_mtime_ns == before


def test_known_facts_are_asked_as_facts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names, the metric and the donors fit pairs of one answer without a counterfactual."""

    def arrived(*_: Any, **options: Any) -> Any:
        raise CotraceError("the model is asked for")

    facts = next(audit for audit in AUDITS if audit.known)
    words = [("Paris", 6), ("Oslo", 7), ("Rome", 8), ("Bern", 9)]
    rows = [
        {"id": f"{i}", "base": f"{name} lies in", "answers": [" Europe"], "target": 0, "split_group": name}
        | {"spans": {"subject": [0, len(name)]}}
        for name, i in words
    ]
    monkeypatch.setattr(gallery, "known_facts", lambda *_: rows)
    monkeypatch.setattr(models, "load_model", arrived)
    monkeypatch.setattr(prepare, "outlook", lambda *_: None)  # which reads the configuration
    assert run(command(facts, given(tmp_path), tmp_path / "run")) == 2
    assert "the model is asked for" in capsys.readouterr().err
