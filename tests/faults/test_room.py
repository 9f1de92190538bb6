"""No room on the disk, and no memory: one line, and the run goes on afterwards to the same bytes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from cotrace.cli.main import run
from cotrace.problem.language import LanguageProblem
from cotrace.runs.config_file import read_config
from tests.faults.harness import SAME, Commands, Kills, check_readable


@pytest.mark.parametrize(
    "most_bytes", [500, *(pytest.param(size, marks=pytest.mark.slow) for size in (5_000, 20_000, 40_000))]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    commands: Commands, kills: Kills, tmp_path: Path, most_bytes: int
) -> None:
    """Files may not grow beyond a limit: the configuration, a checkpoint, a result or a figure does not fit."""
    out = tmp_path / "run"
    code, said = commands.run(*kills.arguments, "--quiet", "--out", str(out), most_bytes=most_bytes)
    assert code == 2
    assert said.startswith(f"cotrace: cannot write or read {out}/")
    assert "File too large: make room there" in said
    assert said.count("\n") == 1
    check_readable(out)
    again = ["resume", str(out)] if (out / "config.yaml").exists() else [*kills.arguments, "--out", str(out)]
    code, said = commands.run(*again)
    assert code == 0, said
    assert {name for name in SAME if (out / name).read_bytes() != (kills.whole / name).read_bytes()} == set()


WORDS = {
    "torch": lambda: torch.empty(1 << 60),
    "python": lambda: bytearray(1 << 60),
    "accelerator": lambda: refuse(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
}


def refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("who", ["torch", *(pytest.param(who, marks=pytest.mark.slow) for who in list(WORDS)[1:])])
def test_memory_that_runs_out_is_one_line_and_the_run_goes_on_with_smaller_batches(
    kills: Kills, tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, calls = tmp_path / "run", [0]
    evaluate = LanguageProblem.value_and_effects

    def greedy(self: LanguageProblem, masks: Any) -> Any:
        calls[0] += 1
        return evaluate(self, masks) if calls[0] < 8 else WORDS[who]()

    with monkeypatch.context() as patched:
        patched.setattr(LanguageProblem, "value_and_effects", greedy)
        assert run([*kills.arguments, "--quiet", "--out", str(out)]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "cotrace: the memory is full: give --batch-tokens a smaller number, or use a smaller model or dtype; "
        f"go on with: cotrace resume {out}"
    )
    assert list(out.glob("checkpoint/*.json"))
    assert run(["resume", str(out), "--batch-tokens", "0"]) == 2
    assert run(["resume", str(out), "--batch-tokens", "300"]) == 0
    assert "goes on with batches of 300 tokens" in capfd.readouterr().err
    assert read_config(out / "config.yaml").batch_tokens == 300
    rows = [list(csv.DictReader((one / "frontier.csv").read_text().splitlines())) for one in (out, kills.whole)]
    assert [row["components"] for row in rows[0]] == [row["components"] for row in rows[1]]
    for one, other in zip(*rows, strict=True):
        assert float(one["effect"]) == pytest.approx(float(other["effect"]), rel=1e-5)


def test_a_mistake_that_shows_in_the_search_leaves_nothing(
    kills: Kills, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Penalties under which nothing is selected: known only after the search."""
    asked = ["trace", "--model", "shipped", "--task", str(kills.commands.folder / "few.jsonl"), "--quiet"]
    penalties = ["--search", "pgbct", "--option.pgbct.l1", "1e6", "--option.pgbct.epochs", "2"]
    assert run([*asked, *penalties, "--out", str(tmp_path / "run")]) == 2
    assert "try smaller penalties" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_after_a_finished_search_keeps_what_was_found(
    kills: Kills, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    asked = ["trace", "--model", "shipped", "--task", str(kills.commands.folder / "few.jsonl"), "--quiet"]
    penalties = ["--search", "topk,pgbct", "--option.pgbct.l1", "1e6", "--option.pgbct.epochs", "2"]
    assert run([*asked, *penalties, "--out", str(out)]) == 2
    assert capfd.readouterr().err.endswith(f"; go on with: cotrace resume {out}\n")
    assert run(["resume", str(out), "--quiet"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "try smaller penalties" in err
