"""What is checked before a model is loaded, which may take minutes."""

import os
from typing import Any

import pytest

from cotrace.errors import CotraceError, InputError
from cotrace.models import load_model
from cotrace.runs import RunConfig
from cotrace.runs import prepare as preparing
from cotrace.runs.prepare import check_threads, prepare
from cotrace.shipped import MODEL


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
    ("most", "mine", "load", "threads"),
    [(8, 8, 0.2, 8), (8, 8, 5.4, 3), (8, 8, 30.0, 1), (8, 2, 0.0, 2), (2, 8, 0.0, 2), (8, 8, 7.6, 1)],
)
def test_threads_are_as_many_as_there_are_free_processors(
    most: int, mine: int, load: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others keep busy is left to them, and never fewer than one is taken."""
    monkeypatch.setattr(preparing.os, "sched_getaffinity", lambda _: set(range(mine)), raising=False)
    monkeypatch.setattr(preparing.os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert preparing.free_threads(most) == threads
