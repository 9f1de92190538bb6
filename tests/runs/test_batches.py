"""The batch plan of a run in which memory ran out: noted, gone on with by a resumed run, and not by a replay."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cotrace.cli.main import run
from cotrace.models import LanguageModel
from cotrace.runs import RunConfig
from cotrace.runs.config_file import read_run_config
from cotrace.runs.result_files import Step
from cotrace.runs.writer import RunWriter
from cotrace.search import SearchState
from tests.conftest import records, write_lines


@contextmanager
def short_of_memory(monkeypatch: pytest.MonkeyPatch, after: int, most: int) -> Iterator[None]:
    """The model that runs load refuses passes of more than so many tokens, from the so-manieth pass on."""
    passes = 0

    def refuse(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal passes
        passes += 1
        if passes > after and given[0].shape[0] * given[0].shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    own = RunConfig.load_model

    def load(config: RunConfig) -> LanguageModel:
        model = own(config)
        model.layers[-1].module.register_forward_pre_hook(refuse)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(RunConfig, "load_model", load)
        yield


def plan(folder: Path) -> dict[str, Any]:
    found = read_run_config(folder)[1]["batch_plan"]
    return {name: found[name] for name in ("batch_tokens", "checkpointing", "events")}


@pytest.fixture(scope="module")
def asked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_lines(pairs, records())
    named = ["trace", "--model", str(tiny_folder), "--task", str(pairs), "--holdout", "0.25"]
    space = ["--sites", "mlp_coordinate", "--max-size", "4"]
    return [*named, *space, "--checkpoint-every-s", "0", "--quiet", "--evaluation", "none"]


@pytest.fixture(scope="module")
def halved(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was short of memory from the middle of its search on."""
    folder = tmp_path_factory.mktemp("runs") / "halved"
    with pytest.MonkeyPatch.context() as patched, short_of_memory(patched, after=40, most=20):
        assert run([*asked, "--out", str(folder)]) == 0
    assert plan(folder)["events"]
    assert "memory ran out" in (folder / "log.txt").read_text()
    return folder


def assert_agree(one: Path, other: Path) -> None:
    """The same sets, and effects within 1e-5."""
    rows = [list(csv.DictReader((folder / "frontier.csv").read_text().splitlines())) for folder in (one, other)]
    assert rows[0]
    for mine, theirs in zip(*rows, strict=True):
        assert mine["components"] == theirs["components"]
        for name in ("effect", "effect_heldout"):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), abs=1e-5)


def test_a_replay_with_memory_enough_agrees(halved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run(["trace", "--config", str(halved / "config.yaml"), "--quiet", "--out", str(again)]) == 0
    assert plan(again)["events"] == []
    assert_agree(halved, again)


@pytest.fixture
def stopped(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, interrupted some steps after its batches were halved."""
    folder, own = tmp_path / "stopped", RunWriter.step

    def stopping(self: RunWriter, step: Step, state: SearchState) -> None:
        own(self, step, state)
        found = self.state.batch_plan
        if found is not None and found["events"]:
            raise KeyboardInterrupt

    with short_of_memory(monkeypatch, after=40, most=20), monkeypatch.context() as patched:
        patched.setattr(RunWriter, "step", stopping)
        assert run([*asked, "--out", str(folder)]) == 130
    assert plan(folder)["events"] == [], "so far the checkpoints alone know"
    return folder


def test_a_resumed_run_goes_on_with_the_batches_it_had(
    halved: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run out of memory again, and says what happened before it was stopped."""
    with short_of_memory(monkeypatch, after=40, most=20):
        assert run(["resume", str(stopped), "--quiet"]) == 0
    assert plan(stopped) == plan(halved)
    assert_agree(halved, stopped)


def test_batches_that_the_user_chooses_on_resuming_go_before_the_plan(stopped: Path, halved: Path) -> None:
    assert run(["resume", str(stopped), "--batch-tokens", "7", "--quiet"]) == 0
    assert read_run_config(stopped)[0].batch_tokens == 7
    assert_agree(halved, stopped)
