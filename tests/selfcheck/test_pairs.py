"""The self-check of a task's pairs: what its donors need, and how lengths that differ are aligned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cotrace as ct
from cotrace.cli.main import run
from cotrace.errors import InputError, UnknownName
from cotrace.prompts import PromptPair, Task
from cotrace.selfcheck import Finding, check, check_reading
from tests import tiny


def findings(task: Task, **asked: str) -> Finding:
    """What the check says of the pairs."""
    report = check(tiny.model("gpt2", torch.float32), task, sites=["mlp_output"], **asked)  # type: ignore[arg-type]
    (found,) = (finding for finding in report.findings if finding.name.startswith("pairs line up"))
    assert report.ok is found.ok
    return found


def facts(donors: str = "noise=0.6") -> Task:
    """Prompts without a counterfactual; one has no subject."""
    pairs = [
        PromptPair(id="a", base="w1 w2 w3", answers=(" w4",), spans={"subject": (3, 5)}),
        PromptPair(id="b", base="w5 w6", answers=(" w7",), spans={"subject": (0, 2)}),
        PromptPair(id="c", base="w8 w9 w10", answers=(" w11",)),
    ]
    return Task(name="facts", pairs=tuple(pairs), donors=donors)


UNEVEN = Task(
    name="uneven",
    pairs=(
        PromptPair(id="a", base="w1 w2 w3", counterfactual="w1 w4 w3", answers=(" w5", " w6")),
        PromptPair(id="b", base="w1 w2 w3", counterfactual="w1 w4 w7 w3", answers=(" w5", " w6")),
    ),
)


def test_facts_need_no_counterfactual_for_the_noise_of_their_task() -> None:
    assert findings(facts()).error == 0
    other = findings(facts(), donors="counterfactual")
    assert not other.ok
    assert "pair a has no 'counterfactual'" in other.note


def test_donors_that_are_asked_for_say_what_is_needed() -> None:
    assert findings(facts("counterfactual"), donors="zero").error == 0
    role = findings(facts(), donors="noise=0.6@subject")
    assert not role.ok
    assert "pair c" in role.words


def test_resampled_pairs_need_a_partner() -> None:
    alone = findings(facts("resample"))
    assert alone.error == pytest.approx(1 / 3)
    assert "pair b: the search sees no other prompt of 2 tokens" in alone.note


def test_the_alignment_says_which_lengths_may_differ() -> None:
    assert findings(UNEVEN).error == 0.5
    assert findings(UNEVEN, align="ends").error == 0


def test_what_is_not_there_is_refused() -> None:
    model = tiny.model("gpt2", torch.float32)
    with pytest.raises(UnknownName, match="did you mean 'zero'"):
        check(model, UNEVEN, donors="zeros")
    with pytest.raises(UnknownName, match="did you mean 'ends'"):
        check_reading(UNEVEN, None, "end")
    with pytest.raises(InputError, match="give the task as well"):
        ct.check(model, donors="zero")


def test_the_command_checks_facts_with_their_own_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = (("The pilot said that {} is", "the nurse", "she"), ("{} said that", "the doctor", "he"))
    rewrites = [
        {"prompt": prompt, "subject": subject, "target_true": {"str": true}, "target_new": {"str": "they"}}
        for prompt, subject, true in told
    ]
    records = [{"case_id": number, "requested_rewrite": rewrite} for number, rewrite in enumerate(rewrites)]
    (tmp_path / "counterfact.json").write_text(json.dumps(records))
    asked = ["check", "shipped", "--task", "counterfact", "--data", str(tmp_path), "--sites", "mlp_output"]
    assert run([*asked, "--json=-"]) == 0
    report = json.loads(capfd.readouterr().out)
    (found,) = (one for one in report["findings"] if one["name"].startswith("pairs line up"))
    assert (found["error"], found["where"]) == (0.0, "counterfact")
    assert run([*asked, "--donors", "counterfactual", "--quiet"]) == 2
    assert "which --donors counterfactual needs" in capfd.readouterr().err


def test_the_command_refuses_donors_of_no_task_before_the_model_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "no/such/model", "--donors", "zero"]) == 2
    assert "give the task as well" in capfd.readouterr().err
    assert run(["check", "no/such/model", "--task", "demo_bias", "--donors", "zeros"]) == 2
    assert "did you mean 'zero'" in capfd.readouterr().err
