"""The batch plan of a run: where memory ran out once, a run that is resumed or replayed is cut again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cotrace.cli.main import run
from cotrace.models import LanguageModel
from cotrace.runs.config_file import read_run_config
from cotrace.runs.keeper import Keeper
from cotrace.runs.results import Step
from cotrace.search import SearchState
from tests.conftest import records, write_lines

SAME = ("frontier.csv", "masks.safetensors", "selection.json", "effects.safetensors", "history.csv")


@contextmanager
def short_of_memory(monkeypatch: pytest.MonkeyPatch, after: int, most: int) -> Iterator[None]:
    """The model that runs load refuses passes of more than so many tokens, from the so-manieth pass on."""
    passes = 0

    def refuse(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal passes
        passes += 1
        if passes > after and given[0].shape[0] * given[0].shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    prepare = import_module("cotrace.runs.prepare")
    own = prepare.load

    def load(*given: Any) -> LanguageModel:
        model = own(*given)
        model.layers[-1].module.register_forward_pre_hook(refuse)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "load", load)
        yield


def plan(folder: Path) -> dict[str, Any]:
    found = read_run_config(folder)[1]["batch_plan"]
    return {name: found[name] for name in ("batch_tokens", "checkpointing", "events")}


@pytest.fixture(scope="module")
def asked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_lines(pairs, records())
    named = ["trace", "--model", str(tiny_folder), "--task", str(pairs), "--holdout", "0.25"]
    space = ["--sites", "mlp_neuron", "--max-size", "4"]
    return [*named, *space, "--checkpoint-every-s", "0", "--quiet", "--evaluation", "none"]


@pytest.fixture(scope="module")
def halved(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was short of memory from the middle of its search on."""
    folder = tmp_path_factory.mktemp("runs") / "halved"
    with pytest.MonkeyPatch.context() as patched, short_of_memory(patched, after=60, most=20):
        assert run([*asked, "--out", str(folder)]) == 0
    events = plan(folder)["events"]
    assert events
    assert events[0]["forward_equivalents"] > 1, "in the middle of the search, not while the problem was made"
    return folder


def differing(one: Path, other: Path) -> set[str]:
    return {name for name in SAME if (one / name).read_bytes() != (other / name).read_bytes()}


def test_a_replay_cuts_where_the_run_was_cut(halved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run(["trace", "--config", str(halved / "config.yaml"), "--quiet", "--out", str(again)]) == 0
    assert plan(again) == plan(halved)
    assert differing(halved, again) == set()


@pytest.mark.parametrize("other", [["--metric", "logit_diff"], ["--batch-tokens", "4000"]])
def test_another_question_is_cut_afresh(halved: Path, tmp_path: Path, other: list[str]) -> None:
    again = tmp_path / "again"
    assert run(["trace", "--config", str(halved / "config.yaml"), *other, "--quiet", "--out", str(again)]) == 0
    assert plan(again)["events"] == []


def stopped_after(halved: Path, asked: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, past: float) -> Path:
    """The same run, interrupted so many forward-equivalents after its batches were halved."""
    most = plan(halved)["events"][-1]["forward_equivalents"] + past
    own = Keeper.step

    def stopping(self: Keeper, step: Step, state: SearchState) -> None:
        own(self, step, state)
        if state.spent > most:
            raise KeyboardInterrupt

    with short_of_memory(monkeypatch, after=60, most=20), monkeypatch.context() as patched:
        patched.setattr(Keeper, "step", stopping)
        assert run([*asked, "--out", str(folder)]) == 130
    assert plan(folder)["events"] == [], "so far the checkpoints alone know"
    return folder


@pytest.mark.parametrize("past", [0.5, 60.0])
def test_a_resumed_run_goes_on_with_the_batches_it_had(
    halved: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, past: float
) -> None:
    """Resumed with memory enough, it gives the bytes of the run that was not interrupted."""
    stopped = stopped_after(halved, asked, tmp_path / "stopped", monkeypatch, past)
    assert run(["resume", str(stopped), "--quiet"]) == 0
    assert plan(stopped) == plan(halved)
    assert differing(halved, stopped) == set()


@pytest.mark.parametrize("at", [-1.0, 0.5], ids=["before memory ran out", "after"])
@pytest.mark.parametrize("checkpoints", ["0", "3600"], ids=["checkpoints", "none"])
def test_a_replay_that_is_interrupted_and_resumed_cuts_where_the_run_was_cut(
    halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: float, checkpoints: str
) -> None:
    """Changes that were still to come are not made early, and are not lost where there was no checkpoint yet."""
    again, most = tmp_path / "again", plan(halved)["events"][0]["forward_equivalents"] + at
    own = Keeper.step

    def stopping(self: Keeper, step: Step, state: SearchState) -> None:
        if state.spent > most:
            raise KeyboardInterrupt
        own(self, step, state)

    words = ["trace", "--config", str(halved / "config.yaml"), "--checkpoint-every-s", checkpoints, "--quiet"]
    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "step", stopping)
        assert run([*words, "--out", str(again)]) == 130
    assert run(["resume", str(again), "--quiet"]) == 0
    assert plan(again) == plan(halved)
    assert differing(halved, again) == set()


def test_batches_that_the_user_chooses_on_resuming_go_before_the_plan(
    halved: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = stopped_after(halved, asked, tmp_path / "stopped", monkeypatch, 0.5)
    assert run(["resume", str(stopped), "--batch-tokens", "333", "--quiet"]) == 0
    assert (plan(stopped)["events"], read_run_config(stopped)[0].batch_tokens) == ([], 333)
