"""What is checked before a model is loaded, which may take minutes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cotrace.cli.console import own_threads
from cotrace.errors import CotraceError, InputError
from cotrace.models import load_model
from cotrace.runs import RunConfig
from cotrace.runs import prepare as preparing
from cotrace.runs.prepare import check_threads, prepare
from cotrace.shipped import MODEL
from tests import tiny


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"task": "demo_bia"}, "unknown task 'demo_bia': did you mean 'demo_bias'"),
        ({"sites": ("head_outpt",)}, "unknown site 'head_outpt': did you mean 'head_output'"),
        ({"donors": "zeros"}, "unknown donor source 'zeros': did you mean 'zero'"),
        ({"metric": "log_ods"}, "unknown metric 'log_ods': did you mean 'log_odds'"),
        ({"searches": ("topkk",)}, "unknown search 'topkk'"),
        ({"direction": "target=x"}, "write the target as a number"),
        ({"split_by": "nope"}, "unknown field 'nope'"),
        ({"memory": "-4GB"}, "memory '-4GB'"),
        ({"sites": ("attention_pattern",), "donors": "zero"}, "rows that sum to 1"),
    ],
)
def test_a_wrong_name_is_said_before_the_model_is_loaded(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunConfig, "load_model", lambda _: pytest.fail("the model was loaded"))
    with pytest.raises(CotraceError) as caught:
        prepare(RunConfig(**{"model": "shipped", "task": "demo_bias"} | asked))
    assert said in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match="seed is"):
        RunConfig(model="shipped", task="demo_bias", seed=seed)


def test_the_word_for_the_model_that_ships_is_a_name_everywhere() -> None:
    named, folder = load_model("shipped"), load_model(MODEL)
    assert named.name == "shipped"
    weights = zip(named.module.parameters(), folder.module.parameters(), strict=True)
    assert all(bool((one == other).all()) for one, other in weights)
    with pytest.raises(InputError, match="unknown model 'shippd': did you mean 'shipped'"):
        load_model("shippd")


def test_more_threads_than_a_machine_can_begin_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(RunConfig, "load_task", lambda _: pytest.fail("data were read"))
    with pytest.raises(InputError, match="threads is 100000: this machine has 2 processors; give at most 256"):
        prepare(RunConfig(model="shipped", task="demo_conflict", threads=100_000))
    check_threads(256)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    check_threads(512)
    check_threads(None)


@pytest.mark.parametrize(
    ("most", "mine", "busy", "granted", "threads"),
    [
        (8, 8, [3.0] * 8, "max", 8),
        (8, 8, [100.0] * 5 + [0.0] * 3, "max", 3),
        (8, 8, [100.0] * 8, "max", 1),
        (8, 2, [0.0, 0.0] + [100.0] * 6, "max", 2),  # what happens on processors of others is theirs
        (8, 2, [100.0, 90.0] + [0.0] * 6, "max", 1),
        (2, 8, [0.0] * 8, "max", 2),
        (8, 8, [0.0] * 8, "350000", 3),
        (8, 8, [0.0] * 8, "50000", 1),
    ],
)
def test_threads_are_as_many_as_there_are_free_processors(
    most: int, mine: int, busy: list[float], granted: str, threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What others keep busy is left to them, and never fewer than one is taken."""
    monkeypatch.setattr(preparing.os, "sched_getaffinity", lambda _: set(range(mine)), raising=False)
    monkeypatch.setattr(preparing.psutil, "cpu_percent", lambda *_, **__: busy)
    monkeypatch.setattr(preparing, "CGROUP", tmp_path)
    assert preparing.free_threads(most) == threads or granted != "max"  # there is no file: no bound
    (tmp_path / "cpu.max").write_text(f"{granted} 100000\n")
    assert preparing.free_threads(most) == threads


@pytest.mark.parametrize(
    ("given", "environment", "small", "threads"),
    [(None, None, True, 1), (None, None, False, 5), (3, None, True, 3), (3, "2", True, 3), (None, "2", False, None)],
)
def test_threads_that_the_user_gives_are_taken(
    given: int | None, environment: str | None, small: bool, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the option, else of the environment, which torch itself has read; else a small model has one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    told = list[int]()
    monkeypatch.setattr(preparing.torch, "set_num_threads", told.append)
    monkeypatch.setattr(preparing, "free_threads", lambda _: 5)
    monkeypatch.setattr(preparing, "SMALL_PARAMETERS", 10**9 if small else 0)
    preparing.use_threads(RunConfig(model="m", task="t", threads=given), tiny.model("gpt2"))
    assert told == ([] if threads is None else [threads])


def test_a_run_records_its_threads_for_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that was chosen stands among the options, so that a replay on a busier machine takes the same."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(preparing, "SMALL_PARAMETERS", 0)
    monkeypatch.setattr(preparing, "free_threads", lambda _: 2)
    with own_threads():
        first = prepare(RunConfig(model="shipped", task="demo_conflict", max_size=1, evaluation="none")).config
        monkeypatch.setattr(preparing, "free_threads", lambda _: pytest.fail("the number is recorded"))
        assert (first.threads, prepare(first).config.threads) == (2, 2)
        assert torch.get_num_threads() == 2
