"""The command line on workers: what it writes is what one process writes, byte by byte."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from cotrace.cli.main import run
from cotrace.dictionaries import save_dictionary
from cotrace.errors import InputError, WorkersError
from cotrace.workers.cluster import Side, side_by_side
from tests.conftest import records, write_lines
from tests.dictionaries.toy import dictionary
from tests.workers.local import job

SAME = ("frontier.csv", "masks.safetensors", "evaluation.json", "effects.safetensors", "history.csv", "selection.json")
ASKED = ("--model", "shipped", "--task", "demo_conflict", "--batch-tokens", "512", "--max-size", "2", "--quiet")


@pytest.mark.slow
@pytest.mark.parametrize(
    "question",
    [
        [
            *("--search", "pursuit,pgbct", "--option.pgbct.epochs", "1", "--option.pgbct.l1", "1e-4"),
            *("--constraint", "demo_agreement:accuracy+-0.05"),
        ],
        ["--metric", "kl", "--direction", "maximise", "--mode", "keep", "--roles", "last"],
        ["--sites", "feature,error,head_output", "--search", "topk", "--dictionaries", "DICTIONARIES"],
    ],
    ids=["searches and a constraint", "logits, kept, by role", "features"],
)
@pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary")
def test_bytes_do_not_depend_on_the_number_of_workers(question: list[str], tmp_path: Path, ray_here: None) -> None:
    if "DICTIONARIES" in question:
        held = tmp_path / "held"
        save_dictionary(dictionary("blocks.2.hook_resid_post", 0, width=96), held)
        question = [str(held) if one == "DICTIONARIES" else one for one in question]
    for workers in range(4):
        assert run(["trace", *ASKED, *question, "--workers", str(workers), "--out", str(tmp_path / str(workers))]) == 0
    for name in SAME:
        first = (tmp_path / "0" / name).read_bytes()
        assert all((tmp_path / str(workers) / name).read_bytes() == first for workers in (1, 2, 3)), name


@pytest.fixture
def grid(tiny_folder: Path, tmp_path: Path) -> Path:
    """Two seeds by two searches by a site that GPT-2 has and one that it lacks."""
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [{**row, "id": f"{row['id']}{i}"} for i in range(2) for row in records()]
    )
    data = {
        "models": [str(tiny_folder)],
        "tasks": [pairs.name],
        "sites": ["head_output", "expert"],
        "seeds": [0, 1],
        "searches": ["topk", {"searches": ["greedy"], "max_size": 2}],
        "common": {"direction": "minimise", "holdout": 0.5, "max_size": 3},
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.slow
def test_cells_side_by_side_write_the_same_bytes_and_list_their_failures(
    grid: Path, tmp_path: Path, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert run(["sweep", str(grid), "--out", str(alone), "--quiet"]) == 2
    assert run(["sweep", str(grid), "--out", str(many), "--workers", "2"]) == 2
    told = capsys.readouterr()
    assert "2 cells at a time" in told.err
    assert "8 of 8: " in told.out
    assert "4 of 8 cells have no result; the first, " in told.err
    for name in ("summary.csv", "report.html"):
        assert (many / name).read_bytes() == (alone / name).read_bytes()
    for name in SAME:
        cells = sorted(path.relative_to(alone) for path in alone.glob(f"cells/*/{name}"))
        assert len(cells) == 4
        assert all((many / cell).read_bytes() == (alone / cell).read_bytes() for cell in cells)
    done = {path: path.stat().st_mtime_ns for path in many.glob("cells/*/manifest.json")}
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text()) | {"sites": ["head_output"], "seeds": [0, 1, 2]}))
    assert run(["sweep", str(grid), "--out", str(many), "--workers", "2", "--quiet"]) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


def kill_the_first(path: Path, kills: int) -> None:
    """Kill the process of a job as often as is said, then let it end."""
    pids = path.with_suffix(".pids")
    for kill in range(kills):
        while not pids.exists() or len(pids.read_text().split()) <= kill:
            time.sleep(0.05)
        os.kill(int(pids.read_text().split()[kill]), signal.SIGKILL)
    path.touch()


@pytest.mark.slow
def test_a_job_whose_process_is_killed_is_run_again_as_often_as_allowed(
    tmp_path: Path, ray_here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    lost, other = tmp_path / "lost", tmp_path / "other"
    other.touch()
    jobs = {"lost": partial(job, lost, "done"), "other": partial(job, other, "as well")}
    thread = threading.Thread(target=kill_the_first, args=(lost, 2))
    thread.start()
    assert dict(side_by_side(jobs, Side(count=2), tmp_path)) == {"lost": "done", "other": "as well"}
    thread.join()
    assert len(lost.with_suffix(".pids").read_text().split()) == 3
    never = tmp_path / "never"
    thread = threading.Thread(target=kill_the_first, args=(never, 3))
    thread.start()
    (answer,) = dict(side_by_side({"never": partial(job, never, "done")}, Side(count=1), tmp_path)).values()
    assert answer.startswith("its process was lost 3 times, the last time as: ")
    thread.join()
    again = tmp_path / "again"
    thread = threading.Thread(target=kill_the_first, args=(again, 2))
    thread.start()
    with pytest.raises(
        WorkersError, match=r"2 workers were lost .*max_restarts is 1: what is done is kept, say the same"
    ):
        dict(side_by_side({"again": partial(job, again, "")}, Side(count=1, max_restarts=1), tmp_path))
    thread.join()
    with pytest.raises(InputError, match=r"^this job cannot be done$"):
        dict(side_by_side({"one": partial(job, other, "fails")}, Side(count=1), tmp_path))
    assert capfd.readouterr() == ("", ""), "Ray says nothing of its own, on standard output least of all"


def test_more_gpus_than_this_machine_has_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    asked = ["trace", "--model", "shipped", "--task", "demo_bias", "--workers", "2", "--worker-gpus", "1"]
    assert run(asked) == 2
    said = capsys.readouterr().err
    assert "2 workers of 1 GPU need 2, and the cluster has 1: give at most 1 workers" in said
    assert said.count("\n") == 1, "no line of a model being loaded"
