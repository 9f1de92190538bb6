"""A frontier saved is the frontier loaded, effects on every pair with it; anything else is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError, OutputExists
from cotrace.results.effects import EffectTable
from cotrace.search import Greedy
from tests.problems import ClosedForm, modular

WEIGHTS = [0.5, -2.0, 0.25, 3.0, 0.0, 1.0]


@cache
def frontier() -> ct.Frontier:
    problem = ClosedForm(modular(WEIGHTS), 6)
    found = Greedy()(problem)
    chosen = np.stack([found.space.indicator(one.members) for one in found])
    table = EffectTable.of(chosen, problem.effects(torch.from_numpy(chosen).float()).numpy())
    return replace(
        found,
        effects=table,
        model="a",
        donors="zero",
        summary="in words\nof two lines",
        cost_weights={"mlp_output": 2.0},
    )


def test_a_file_of_arrays_keeps_everything(tmp_path: Path) -> None:
    one = frontier()
    assert one.effects is not None
    path = one.save(tmp_path / "one.safetensors")
    again = ct.Frontier.load(path)
    assert again == one
    assert again.effects is not None
    assert np.array_equal(again.effects.keys, one.effects.keys)
    assert np.array_equal(again.effects.effects, one.effects.effects)
    assert again.effects_frame().equals(one.effects_frame())


def test_a_file_of_text_keeps_everything_but_the_effects_on_every_pair(tmp_path: Path) -> None:
    again = ct.Frontier.load(str(frontier().save(str(tmp_path / "one.json"))))
    assert again == frontier()
    assert again.effects is None
    assert json.loads((tmp_path / "one.json").read_text())["frontier"]["search"] == "greedy"
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_nothing_is_written_over_and_no_other_form_is_made(tmp_path: Path) -> None:
    frontier().save(tmp_path / "one.json")
    with pytest.raises(OutputExists, match="exists already"):
        frontier().save(tmp_path / "one.json")
    with pytest.raises(InputError, match=r"is no format of a frontier: end the name in \.json"):
        frontier().save(tmp_path / "one.pkl")
    with pytest.raises(InputError, match="there is no folder"):
        frontier().save(tmp_path / "nowhere" / "one.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data | {"schema": 9},
        lambda data: data | {"kind": "selection"},
        lambda data: {"schema": 1},
        lambda data: [],
        lambda data: data | {"frontier": {}},
        lambda data: data | {"frontier": data["frontier"] | {"mode": "neither"}},
        lambda data: data | {"frontier": data["frontier"] | {"space": ["L0.head0"]}},
        lambda data: data | {"frontier": data["frontier"] | {"full_effect": "much"}},
    ],
)
def test_a_file_that_says_something_else_is_one_line(change: Any, tmp_path: Path) -> None:
    path = frontier().save(tmp_path / "one.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"one\.json is not what frontier\.save writes") as caught:
        ct.Frontier.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_a_frontier_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    for path, words in (
        (tmp_path / "other.safetensors", "is not what frontier.save writes"),
        (tmp_path / "none.json", "there is no file"),
        (tmp_path, "is a folder: ct.open_run"),
        (tmp_path / "a.txt", "is no format of a frontier"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            ct.Frontier.load(path)
        assert "\n" not in str(caught.value)
