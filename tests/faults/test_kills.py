"""A run that is killed at random moments, resumed until it ends, and compared byte by byte."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.harness import SAME, Commands, Kills, begin, check_readable, features_of

KILLS = 20
FEW = 4


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(kills: Kills) -> None:
    """300 of them: python -m benchmarks.kills, counted in docs/runs.md."""
    kills.go(KILLS)
    assert kills.kills == KILLS
    early = kills.moments.get("nothing", 0)
    assert kills.resumes >= KILLS - early, "every kill but those before the folder was begun is resumed"


@pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary")
def test_kills_of_a_run_on_features_change_no_byte(commands: Commands) -> None:
    """Which features are components, what they cost, and every set are as in the run that nothing stopped."""
    kills = begin(commands, seed=1, arguments=features_of(commands.folder), name="features")
    frontier = json.loads((kills.whole / "selection.json").read_text())["frontiers"][0]
    assert any(".feature" in name for one in frontier["selections"] for name in one["components"])
    kills.go(FEW)
    assert kills.kills == FEW
    assert kills.resumes >= FEW - kills.moments.get("nothing", 0)


def begun(commands: Commands, kills: Kills, out: Path, checkpoints: int) -> int:
    """The process id of a run that has written so many checkpoints."""
    process = commands.start(*kills.arguments, "--out", str(out))
    deadline = time.monotonic() + 120
    while len(list(out.glob("checkpoint/*.json"))) < checkpoints:
        assert time.monotonic() < deadline, commands.said()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_polite_end_says_how_to_go_on(
    commands: Commands, kills: Kills, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "run"
    process = begun(commands, kills, out, checkpoints=2)
    os.kill(process, number)
    assert commands.wait(process) == code
    said = commands.said()
    assert said.endswith(f"cotrace: interrupted; go on with: cotrace resume {out}\n")
    assert "Traceback" not in said
    check_readable(out)
    code, said = commands.run("resume", str(out))
    assert code == 0, said
    assert "going on after step" in said
    assert {name for name in SAME if (out / name).read_bytes() != (kills.whole / name).read_bytes()} == set()
    log = (out / "log.txt").read_text()
    assert "stopped: " in log
    assert log.endswith("finished\n")


def test_an_end_before_the_first_checkpoint_resumes_from_the_beginning(
    commands: Commands, kills: Kills, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    seldom = [*kills.arguments[:-1], "1000"]
    process = commands.start(*seldom, "--out", str(out))
    while not (out / "config.yaml").exists():
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert commands.wait(process) == -signal.SIGKILL
    assert not (out / "checkpoint").exists()
    code, said = commands.run("resume", str(out))
    assert code == 0
    assert "no checkpoint: from the beginning" in said
    assert {name for name in SAME if (out / name).read_bytes() != (kills.whole / name).read_bytes()} == set()
    code, said = commands.run("resume", str(out))
    assert (code, said) == (0, f"{out} is finished: there is nothing to resume\n")


def test_a_second_writer_is_refused(commands: Commands, kills: Kills, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = begun(commands, kills, out, checkpoints=1)
    os.kill(first, signal.SIGSTOP)
    try:
        second = commands.start("resume", str(out), output="second.txt")
        assert commands.wait(second) == 2
        assert commands.said("second.txt") == (
            f"cotrace: another process is writing the run {out}: wait until it is done, or name another folder\n"
        )
        third = commands.start(*kills.arguments, "--out", str(out), output="third.txt")
        assert commands.wait(third) == 2
        assert f"go on with `cotrace resume {out}`" in commands.said("third.txt")
    finally:
        os.kill(first, signal.SIGCONT)
    assert commands.wait(first) == 0
    assert {name for name in SAME if (out / name).read_bytes() != (kills.whole / name).read_bytes()} == set()


def test_the_lock_of_a_killed_process_does_not_block(commands: Commands, kills: Kills, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = begun(commands, kills, out, checkpoints=1)
    os.kill(process, signal.SIGKILL)
    commands.wait(process)
    assert (out / ".lock").exists()
    assert commands.run("resume", str(out))[0] == 0


def test_two_runs_that_begin_at_once_take_two_folders(commands: Commands, kills: Kills, tmp_path: Path) -> None:
    """Neither has a name; both want the first that is free."""
    folder = Path(commands.folder)
    asked = ["trace", "--model", "shipped", "--task", str(folder / "few.jsonl"), "--search", "topk", "--max-size", "1"]
    both = [commands.start(*asked, output=f"{i}.txt") for i in range(2)]
    assert [commands.wait(process) for process in both] == [0, 0]
    made = sorted(path.name for path in (folder / "runs").iterdir())
    assert made == ["few-topk", "few-topk-2"]
    one, other = ((folder / "runs" / name / "frontier.csv").read_bytes() for name in made)
    assert one == other
