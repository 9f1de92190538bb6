"""Runs of an earlier version are still read, and one that was stopped is gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

import cotrace as ct
from cotrace.cli import runner
from cotrace.cli.main import run
from cotrace.runs.config import identity
from cotrace.runs.config_file import options_in, read_run_config
from cotrace.runs.manifest import LINE, Manifest, seal, seal_text, unseal
from tests.conftest import records, write_lines

SINCE = ("judge_pairs", "dictionaries_of", "layers")
"""Options that an earlier version did not have."""


def made_earlier(folder: Path) -> None:
    """Have the folder's config.yaml, and its checkpoints, as a version without those options has written them."""
    path = folder / "config.yaml"
    text = path.read_text().rpartition(LINE)[0]
    lines = [line for line in text.splitlines(keepends=True) if line.partition(":")[0] not in SINCE]
    path.write_bytes(seal_text("".join(lines)))
    assert not options_in(folder) & {*SINCE}
    for checkpoint in (folder / "checkpoint").glob("*.json"):
        then = identity(read_run_config(folder)[0], options_in(folder))
        checkpoint.write_bytes(seal(unseal(checkpoint) | {"run": then}))


@pytest.fixture
def question(tiny_folder: Path, tmp_path: Path) -> list[str]:
    pairs = write_lines(tmp_path / "pairs.jsonl", records())
    named = ["trace", "--model", str(tiny_folder), "--task", str(pairs), "--holdout", "0.25", "--search", "greedy"]
    return [*named, "--direction", "maximise", "--checkpoint-every-s", "0", "--quiet"]


def test_a_run_that_an_earlier_version_began_is_gone_on_with(
    question: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*question, "--out", str(tmp_path / "whole")]) == 0
    own, asked = runner.search_once, [*question, "--out", str(tmp_path / "stopped")]

    def stopped(*arguments: object) -> object:
        own(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "search_once", stopped)
        assert run(asked) == 130
    made_earlier(tmp_path / "stopped")
    assert run(["resume", str(tmp_path / "stopped")]) == 0
    log = (tmp_path / "stopped" / "log.txt").read_text()
    steps = (tmp_path / "whole" / "history.csv").read_text().count("\n") - 1
    assert f"taken up after step {steps}" in log
    for name in ("frontier.csv", "masks.safetensors", "history.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_of_an_earlier_version_is_read(
    question: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run([*question, "--out", str(folder)]) == 0
    made_earlier(folder)
    Manifest.of(folder).write()
    found = ct.open_run(folder)
    assert (found.frontier.search, found.frontier.sizes, found.config.layers) == ("greedy", [1, 2, 3, 4], None)
    assert run(["verify", str(folder), "--quiet"]) == 0, capfd.readouterr().err
    assert run(["report", str(folder), "--quiet"]) == 0
