"""The same configuration gives the same bytes under another clock, locale and working folder; no global state moves."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.cli.main import run
from tests.conftest import records, write_lines

SAME = ("frontier.csv", "masks.safetensors", "selection.json", "effects.safetensors", "evaluation.json", "history.csv")
METRIC = """
def half(scores, answers):
    return (scores[..., 0] - scores[..., 1]) / 2
"""
DRIFTING = """
import sys, time, datetime, random
import numpy, torch

ahead = 400 * 86400.0
for name in ("time", "monotonic", "perf_counter"):
    setattr(time, name, lambda own=getattr(time, name), n=[0]: own() * 3 + ahead)
random.seed(5); numpy.random.seed(6); torch.manual_seed(7)
from cotrace.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def paths() -> dict[str, str]:
    """The environment in which a process finds the package that is tested."""
    found = [str(Path(ct.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, found))}


@pytest.fixture
def first(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model, data and metric were named by relative paths."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "model").symlink_to(tiny_folder)
    write_lines(home / "pairs.jsonl", records())
    (home / "mine.py").write_text(METRIC)
    monkeypatch.chdir(home)
    named = ["--model", "model", "--task", "pairs.jsonl", "--metric", "mine.py:half", "--holdout", "0.25"]
    searches = ["--search", "pursuit,pgbct,annealing,random", "--option.pgbct.epochs", "3", "--seed", "4"]
    assert run(["trace", *named, *searches, "--quiet", "--out", "first"]) == 0
    return home / "first"


@pytest.mark.slow
def test_another_clock_locale_and_folder_change_no_byte(first: Path, tmp_path: Path) -> None:
    """In a process of its own: hours behind and at thrice the pace, Turkish, no UTF-8, other hashes of text."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    surroundings = {
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "PYTHONUTF8": "0",
        "PYTHONHASHSEED": "17",
        "COLUMNS": "40",
        "SOURCE_DATE_EPOCH": "1",
    }
    asked = ["trace", "--config", str(first / "config.yaml"), "--quiet", "--out", "again"]
    done = subprocess.run(
        [sys.executable, "-c", DRIFTING, *asked],
        cwd=elsewhere,
        env=paths() | surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = elsewhere / "again"
    assert {name for name in SAME if (first / name).read_bytes() != (again / name).read_bytes()} == set()


def test_a_config_that_was_moved_with_its_files_finds_them(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by hand, with paths relative to its own folder, whatever the working folder is."""
    text = (first / "config.yaml").read_text().partition("record:")[0].partition("\n")[2]
    home = first.parent
    for name in ("model", "pairs.jsonl", "mine.py"):
        text = text.replace(str((home / name).resolve()), name)
    assert str(tmp_path) not in text
    moved = tmp_path / "moved"
    home.rename(moved)
    (moved / "own.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    asked = ["trace", "--config", str(moved / "own.yaml"), "--quiet", "--out", str(tmp_path / "again")]
    assert run(asked) == 0
    kept = moved / "first"
    assert {name for name in SAME if (kept / name).read_bytes() != (tmp_path / "again" / name).read_bytes()} == set()


WATCHED = """
import json, random, sys
import numpy as np, torch
import cotrace as ct
from cotrace.cli.main import run

def state():
    numpys = [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()]
    streams = [random.getstate(), numpys]
    told = [torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), str(torch.get_default_dtype())]
    return json.dumps([streams, torch.get_rng_state().tolist(), told, torch.is_grad_enabled()])

folder, pairs, out = sys.argv[1:]
random.seed(1), np.random.seed(2), torch.manual_seed(3)
before = state()
task, model = ct.Task.from_jsonl(pairs), ct.load_model(folder)
for search in ("pursuit", "annealing", "random", "hardconcrete"):
    ct.trace(model, task, search=search, holdout=0.25, donors="noise=0.5", evaluation="quick", max_size=2)
    assert state() == before, search
asked = ["--model", folder, "--task", pairs, "--holdout", "0.25", "--quiet", "--threads", "2"]
assert run(["trace", *asked, "--search", "random,annealing,pgbct", "--out", out]) == 0
assert run(["evaluate", out, "--quiet"]) == 0
assert state() == before, "command line"
print("as before")
"""


@pytest.mark.slow
def test_the_global_random_state_is_left_as_it_was(tiny_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    """In a process of its own: the checks of types that tests run under draw from Python's own stream."""
    asked = [str(tiny_folder), str(pairs_file), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED, *asked],
        capture_output=True,
        text=True,
        check=False,
        env=paths(),
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["as before"]), done.stderr


@pytest.mark.parametrize("seeded", [1, 2])
def test_nor_is_it_read(tiny_folder: Path, pairs_file: Path, tmp_path: Path, seeded: int) -> None:
    """Whatever the user's process has drawn before, the same set is found."""
    asked = ["--model", str(tiny_folder), "--task", str(pairs_file), "--holdout", "0.25", "--quiet"]
    found = []
    for seed in (seeded, seeded + 10):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        out = tmp_path / f"run-{seed}"
        assert run(["trace", *asked, "--search", "random,annealing", "--donors", "noise=0.5", "--out", str(out)]) == 0
        found.append([(out / name).read_bytes() for name in SAME])
    assert found[0] == found[1]
