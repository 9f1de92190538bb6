"""Rows are packed or plain by what a clock says of a sample; the choice is kept, and can be said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cotrace.errors import UnknownName
from cotrace.problem import LanguageProblem, passes, side_problem
from cotrace.problem.builder import check_options
from cotrace.runs import RunConfig
from cotrace.runs.config_file import read_config, write_config
from cotrace.runs.prepare import prepare
from tests import tiny

Clock = Callable[[float], list[bool]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock on which a packed pass takes a second, and a plain one as long as is said; gives the passes timed."""

    def start(plain_s: float) -> list[bool]:
        now, looks, timed, run = [0.0], [0], list[bool](), passes.forward

        def forward(model: Any, layout: Any, *more: Any, **options: Any) -> Any:
            now[0] += 1.0 if layout.masked else plain_s
            timed.extend([layout.masked] * (looks[0] % 2))  # between the first look at the clock and the second
            return run(model, layout, *more, **options)

        def look() -> float:
            looks[0] += 1
            return now[0]

        monkeypatch.setattr(passes, "forward", forward)
        monkeypatch.setattr(passes, "perf_counter", look)
        monkeypatch.setattr(passes, "MEASURED_BELOW", 1_000_000)
        return timed

    return start


def problem(**options: Any) -> LanguageProblem:
    return LanguageProblem(
        tiny.model("llama"), tiny.task(), sites=["head_output"], holdout=0, direction="maximise", **options
    )


@pytest.mark.parametrize(("plain_s", "packed"), [(0.5, False), (0.89, False), (0.91, True), (3.0, True)])
def test_plain_rows_are_taken_where_they_are_quicker_by_a_tenth(plain_s: float, packed: bool, clock: Clock) -> None:
    timed = clock(plain_s)
    measured = problem(packing="measured")
    assert timed == [True, False] * (1 + passes.MEASURED_PASSES)  # in turn, so that both meet the same machine
    assert measured.packing.packed == measured.plan.packed == packed
    assert measured.packing.keep_prefix == packed
    assert measured.packing.shortcuts


def test_effects_and_gradients_are_the_same_in_both(clock: Clock) -> None:
    clock(0.5)
    plain, packed = problem(packing="measured"), problem()
    z = torch.rand(3, len(plain.space), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (plain.packing.packed, packed.packing.packed) == (False, True)
    assert (plain.effects(z) - packed.effects(z)).abs().max() < 1e-6
    assert (plain.gradient(z[0]) - packed.gradient(z[0])).abs().max() < 1e-6
    assert packed.effects(z).abs().max() > 1e-3


@pytest.mark.parametrize("said", ["packed", "plain"])
def test_only_what_is_asked_for_is_measured(said: Any, clock: Clock) -> None:
    timed = clock(0.5 if said == "packed" else 3.0)
    assert problem(packing=said).packing.packed == (said == "packed")
    assert timed == []


def test_nor_are_larger_models_and_those_that_take_no_packed_rows(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = clock(0.5)
    monkeypatch.setattr(passes, "MEASURED_BELOW", tiny.model("llama").module.num_parameters())
    assert problem(packing="measured").packing.packed
    monkeypatch.setattr(passes, "MEASURED_BELOW", 1_000_000)
    monkeypatch.setattr(tiny.model("llama").once(passes.Trials), "packed_rows", False)
    assert not problem(packing="measured").packing.packed
    assert timed == []


def test_the_sample_is_small_however_many_pairs_there_are(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    clock(0.5)
    monkeypatch.setattr(passes, "MEASURED_TOKENS", 20)
    inner = passes._sample
    monkeypatch.setattr(passes, "_sample", lambda model, few, how: sizes.append(len(few)) or inner(model, few, how))
    whole = problem(packing="measured")
    tokens = sum(pair.fed for pair in whole.encoding.pairs)
    assert sizes == [len(range(0, whole.size, -(-tokens // 20)))] * 2
    assert 1 <= sizes[0] < whole.size


def test_a_problem_beside_another_takes_its_choice(clock: Clock) -> None:
    timed = clock(0.5)
    first = problem(packing="measured")
    timed.clear()
    clock(3.0)
    beside = side_problem(first, tiny.task())
    assert not beside.packing.packed
    assert timed == []


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown packing 'plan': did you mean 'plain'"):
        check_options("swap", "exact", "prompt", "auto", "plan", None)


def test_a_run_records_the_choice_and_replays_it_unmeasured(clock: Clock, tmp_path: Path) -> None:
    clock(0.5)
    asked = RunConfig(model="shipped", task="demo_conflict", max_size=2, evaluation="none", packing="measured")
    first = prepare(asked)
    assert (first.config.packing, first.problem.packing.packed) == ("plain", False)
    (tmp_path / "config.yaml").write_bytes(write_config(first.config, {}))
    timed = clock(3.0)
    again = prepare(read_config(tmp_path / "config.yaml"))
    assert (again.config, again.problem.packing) == (first.config, first.problem.packing)
    assert timed == []
    other = prepare(replace(again.config, packing="measured"))
    assert (other.config.packing, other.problem.packing.packed) == ("packed", True)
    assert timed
