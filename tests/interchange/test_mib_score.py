"""MIB's areas against its formula written out as a loop, and against its own evaluation of the same circuits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace.errors import DegenerateError, InputError
from cotrace.interchange import mib_score
from cotrace.search import Attribution, Greedy
from tests.problems import ClosedForm, modular
from tests.tiny import SHARED, needs_shared

WEIGHTS = [float(2 ** (i % 5)) - 3.0 for i in range(40)]
GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


def areas_by_hand(f: list[float]) -> tuple[float, float]:
    under = away = 0.0
    for i in range(len(f) - 1):
        width = GRID[i + 1] - GRID[i]
        under += width * (f[i] + f[i + 1]) / 2
        away += width * (abs(1 - f[i]) + abs(1 - f[i + 1])) / 2
    return under, away


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_areas_are_those_of_its_evaluation(mode: Any) -> None:
    total = sum(WEIGHTS)
    scale = 1.0 if mode == "swap" else 1 / total
    problem = ClosedForm(modular([scale * w for w in WEIGHTS]), 40, mode=mode)
    frontier = Greedy()(problem)
    before = problem.cost.forward_equivalents
    found = mib_score(problem, frontier)
    assert problem.cost.forward_equivalents - before == 7, "six different sizes, and everything"
    best = sorted(WEIGHTS, reverse=True)
    assert found.sizes == tuple(int(share * 40) for share in GRID) == (0, 0, 0, 0, 0, 2, 4, 8, 20, 40)
    f = [sum(best[:k]) / total for k in found.sizes]
    assert found.faithfulness == pytest.approx(f, abs=1e-6)
    assert (found.cpr, found.cmd) == pytest.approx(areas_by_hand(f), abs=1e-6)
    assert max(found.faithfulness) > 1, "some components work against the rest"


THEIRS: dict[Any, tuple[float, float, list[float]]] = {
    "keep": (1.3989402014676413, 0.8257955455083993, [0.0] * 7 + [0.6803616398981316, 2.5321696837201095, 1.0]),
    "swap": (0.4023012676269746, 0.5966987323730254, []),
}
"""CPR and CMD of MIB's own ``evaluate_area_under_curve`` (level ``node``, patching, ``logit_diff``) with EAP-IG's graph
on TransformerLens 2.18, in double precision, on tiny-gpt2 and these prompts; it puts the start token before each. Run
outside this repository: github.com/hannamw/MIB-circuit-track at b759df3, github.com/hannamw/EAP-IG at 795f560."""


@needs_shared
@pytest.mark.parametrize("mode", ["keep", "swap"])
def test_areas_are_those_of_its_own_code_on_the_same_circuit(mode: Any) -> None:
    model = ct.load_model(SHARED / "models" / "tiny-gpt2", dtype=torch.float64)
    task = ct.tasks.ioi(size=40)
    start = "<|endoftext|>"
    pairs = tuple(
        replace(pair, base=start + pair.base, counterfactual=start + str(pair.counterfactual), spans={})
        for pair in task.pairs
    )
    problem = ct.LanguageProblem(
        model,
        replace(task, pairs=pairs),
        sites=["head_output", "mlp_output"],
        mode=mode,
        metric="logit_diff",
        holdout=0.0,
        direction="maximise",
    )
    found = mib_score(problem, Attribution()(problem))
    cpr, cmd, faithfulness = THEIRS[mode]
    assert (found.cpr, found.cmd) == pytest.approx((cpr, cmd), rel=0, abs=1e-9)
    if faithfulness:
        assert found.faithfulness == pytest.approx(faithfulness, rel=0, abs=1e-9)


def test_refusals() -> None:
    flat = ClosedForm(lambda s: s[:, 0] * (1 - s[:, 1]), 4)
    frontier = Greedy()(flat)
    with pytest.raises(DegenerateError, match="faithfulness has nothing to be a share of"):
        mib_score(flat, frontier)
    with pytest.raises(InputError, match=r"the frontier is of .*, the problem of"):
        mib_score(ClosedForm(modular([1.0] * 5), 5), frontier)
