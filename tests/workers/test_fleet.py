"""The simulated fleet against what can be computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.fleet import World, limits, play

EVEN = {"straggler_share": 0.0, "failures_per_minute": 0.0}


def test_without_driver_stragglers_and_failures_nothing_is_lost() -> None:
    found = play(World(batch_s=(0.5,), driver_s=0.0, **EVEN), workers=16, batches=64)
    assert found.efficiency == pytest.approx(1.0)


def test_a_round_that_does_not_divide_waits_for_its_last_batches() -> None:
    found = play(World(batch_s=(0.5,), driver_s=0.0, **EVEN), workers=16, batches=17)
    assert found.efficiency == pytest.approx(17 / 32), "two turns of 16 for 17 batches"
    assert limits(found).startswith("the last batches")


def test_the_driver_feeds_as_many_workers_as_a_batch_takes_of_its_turns() -> None:
    found = play(World(batch_s=(0.1,), driver_s=0.001, **EVEN), workers=1000, batches=20_000, rounds=1)
    assert found.efficiency == pytest.approx(0.1, rel=0.01), "100 of 1000 are busy"
    assert limits(found).startswith("the driver")


def test_stragglers_alone_work_at_their_own_pace() -> None:
    found = play(World(batch_s=(0.5,), driver_s=0.0, straggler_share=1.0, slowdown=4.0, failures_per_minute=0.0), 8, 64)
    assert found.efficiency == pytest.approx(1 / 4)
    assert found.lost_to_stragglers == pytest.approx(3 / 4)


def test_what_is_lost_and_done_adds_up_to_all_time() -> None:
    world = World(batch_s=(0.4, 0.5, 0.6), driver_s=0.002, failures_per_minute=60.0, restart_s=0.5)
    found = play(world, workers=64, batches=1280)
    lost = found.lost_to_driver + found.lost_to_end + found.lost_to_failures + found.lost_to_stragglers
    assert found.lost_to_failures > 0
    assert found.efficiency + lost == pytest.approx(1.0, abs=0.02), "but for workers still beginning anew at the end"
