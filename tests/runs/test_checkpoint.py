"""Checkpoints: what is written reads back the same for every search, damaged ones are passed over, they are seldom."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cotrace.errors import CotraceError, DamagedRun
from cotrace.results.effects import EffectTable
from cotrace.runs import writer as keeping
from cotrace.runs.checkpoint import Checkpoints, RunState
from cotrace.runs.result_files import Step
from cotrace.runs.writer import RunWriter
from cotrace.search import SEARCHES, SearchState, frontier, named
from tests.problems import ClosedForm, saturating
from tests.report.frontiers import SETS
from tests.report.frontiers import frontier as by_hand

OPTIONS = {"pgbct": {"l1": (0.01, 0.1), "batch_size": 3}, "annealing": {"proposals": 6}, "matryoshka": {"updates": 12}}


def problem() -> ClosedForm:
    return ClosedForm(saturating(8, seed=3), 8)


def step(i: int) -> Step:
    return Step("topk", "single effects", i, 1.5 * i, i, 1, 0.1 + 0.2)


@pytest.mark.parametrize(
    "name",  # every one of them in test_resume.py, without the files
    [pytest.param(name, marks=() if name in ("pgbct", "pursuit") else pytest.mark.slow) for name in sorted(SEARCHES)],
)
def test_a_search_goes_on_from_its_checkpoint_to_the_same_frontier(name: str, tmp_path: Path) -> None:
    search = named(name, **OPTIONS.get(name, {}))
    states = list(search.steps(problem()))
    whole = frontier(problem(), states[-1]).to_dict()
    for i, state in list(enumerate(states))[:: max(1, len(states) // 4)]:
        Checkpoints(tmp_path, "run").save(RunState(steps=(step(i),), search=state, elapsed_s=1.5))
        found = Checkpoints(tmp_path, "run").load()
        assert (found.steps, found.elapsed_s, found.frontiers) == ((step(i),), 1.5, ())
        assert found.search is not None
        again = problem()
        assert frontier(again, [found.search, *search.steps(again, found.search)][-1]).to_dict() == whole


def test_finished_searches_come_back_with_their_effects(tmp_path: Path) -> None:
    chosen = np.eye(6, dtype=bool)
    table = EffectTable.of(chosen, np.linspace(0, 1, 18, dtype=np.float32).reshape(6, 3))
    done = replace(by_hand(SETS, [0.1, 0.2, 0.3]), effects=table, elapsed_s=3.25)
    bare = by_hand(SETS, [0.3, 0.4, float(np.float64(1) / 3)], search="topk")
    Checkpoints(tmp_path, "run").save(RunState(frontiers=(done, bare), steps=(step(1),)))
    found = Checkpoints(tmp_path, "run").load()
    assert found.frontiers == (done, bare)
    assert found.search is None
    assert found.frontiers[0].effects is not None
    assert np.array_equal(found.frontiers[0].effects.keys, table.keys)
    assert np.array_equal(found.frontiers[0].effects.effects, table.effects)
    assert found.frontiers[1].effects is None


def saved(folder: Path, count: int) -> None:
    """So many checkpoints, with 1, 2, ... steps."""
    checkpoints = Checkpoints(folder, "run")
    for i in range(1, count + 1):
        checkpoints.save(RunState(frontiers=(by_hand(SETS, [0.1, 0.2, 0.3]),), steps=tuple(map(step, range(i)))))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def test_the_newest_two_are_kept_and_what_is_done_is_written_once(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    written = (tmp_path / "checkpoint" / "done-0.safetensors").stat().st_mtime_ns
    checkpoints = Checkpoints(tmp_path, "run")
    state = checkpoints.load()
    for _ in range(4):
        checkpoints.save(state)
    assert names(tmp_path) == [
        *("000004.json", "000005.json", "done-0.safetensors"),
        *("search-000004.safetensors", "search-000005.safetensors"),
    ]
    assert (tmp_path / "checkpoint" / "done-0.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["000003.json", "search-000003.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"x" * 300])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path, name: str, content: bytes) -> None:
    saved(tmp_path, 3)
    (tmp_path / "checkpoint" / name).write_bytes(content)
    with pytest.warns(UserWarning, match=f"{name}.*going on from the one before it"):
        assert len(Checkpoints(tmp_path, "run").load().steps) == 2


def test_a_part_of_it_that_is_missing(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / "checkpoint" / "search-000002.safetensors").unlink()
    with pytest.warns(UserWarning, match="No such file"):
        assert len(Checkpoints(tmp_path, "run").load().steps) == 1


def test_what_was_being_written_is_swept_away(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "checkpoint" / ".000002.json.abc.tmp").write_bytes(b"{")
    (tmp_path / "checkpoint" / "search-000002.safetensors").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = checkpoints.load()
    checkpoints.save(state)
    assert names(tmp_path) == [
        *("000001.json", "000002.json", "done-0.safetensors"),
        *("search-000001.safetensors", "search-000002.safetensors"),
    ]


def test_that_of_another_question_is_not_taken_up(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.warns(UserWarning, match="of another run"):
        assert Checkpoints(tmp_path, "another").load() == RunState()


def writer(folder: Path, monkeypatch: pytest.MonkeyPatch, now: list[float], **options: float | None) -> RunWriter:
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now[0])
    return RunWriter(folder, Checkpoints(folder, "run"), RunState(), **options)  # type: ignore[arg-type]


def state() -> SearchState:
    return next(iter(named("topk").steps(problem())))


@pytest.mark.parametrize(
    ("every_s", "took_s", "due_at"),
    [(None, 0.001, [10, 20, 30]), (None, 0.15, [15, 30]), (0.0, 5.0, [*range(1, 31)]), (7.0, 0.0, [7, 14, 21, 28])],
)
def test_a_checkpoint_rests_ten_seconds_and_a_hundred_times_as_long_as_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float | None, took_s: float, due_at: list[int]
) -> None:
    now, written = [0.0], []
    kept = writer(tmp_path, monkeypatch, now, every_s=every_s)
    checkpoints = kept._checkpoints
    checkpoints.took_s = took_s
    monkeypatch.setattr(checkpoints, "save", lambda at: written.append(now[0]))
    stands = state()
    for second in range(1, 31):
        now[0] = float(second)
        kept.step(step(second), stands)
    assert written == due_at


def test_what_stops_a_run_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = writer(tmp_path, monkeypatch, [0.0])
    reason = KeyboardInterrupt()
    kept.stop(reason)
    assert reason.__notes__ == [f"go on from the beginning with: cotrace resume {tmp_path}"]
    kept.step(step(1), state())
    reason = KeyboardInterrupt()
    kept.stop(reason)
    assert reason.__notes__ == [f"go on with: cotrace resume {tmp_path}"]
    assert len(Checkpoints(tmp_path, "run").load().steps) == 1


def test_a_mistake_before_anything_is_worth_keeping_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = writer(tmp_path, monkeypatch, [0.0])
    kept.step(step(1), state())
    mistake = CotraceError("no")
    kept.stop(mistake)
    assert not hasattr(mistake, "__notes__")
    assert list(tmp_path.iterdir()) == []
    kept.done(by_hand(SETS, [0.1, 0.2, 0.3]))
    kept.stop(mistake)
    assert mistake.__notes__ == [f"go on with: cotrace resume {tmp_path}"]


def test_a_disk_that_is_full_when_a_run_is_stopped_does_not_hide_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = writer(tmp_path, monkeypatch, [0.0])
    kept.step(step(1), state())

    def full(at: RunState) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept._checkpoints, "save", full)
    reason = KeyboardInterrupt()
    kept.stop(reason)
    assert "could not be saved ([Errno 28] No space left on device)" in reason.__notes__[0]
    assert reason.__notes__[1] == f"go on from the beginning with: cotrace resume {tmp_path}"


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    """A run that was received from somebody may hold one in the place of its checkpoints."""
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "000001.json").write_text("precious")
    run.mkdir()
    (run / "checkpoint").symlink_to(elsewhere)
    for use in (lambda c: c.load(), lambda c: c.remove(), lambda c: c.save(RunState(steps=(step(1),)))):
        with pytest.raises(DamagedRun, match="is a link and no folder of the run's own"):
            use(Checkpoints(run, "run"))
    assert [path.name for path in elsewhere.iterdir()] == ["000001.json"]


def test_files_of_somebody_else_are_not_removed_with_the_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(RunState(steps=(step(1),)))
    (tmp_path / "checkpoint" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint" / ".000002.json.x.tmp").write_text("half")
    checkpoints.remove()
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["notes.txt"]
