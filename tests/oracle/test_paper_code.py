"""Numbers that the paper's own code gives: per-example effects, and whole optimisation runs."""

import json
from functools import cache
from typing import Any

import pytest
import torch

from cotrace import tasks
from cotrace.models import load_model
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.search import PGBCT
from tests.tiny import SHARED, needs_shared

SITE = {"winobias": "attention_pattern", "professions": "mlp_coordinate"}
FILE = {"winobias": "tiny_winobias_dev_effects.json", "professions": "tiny_professions_effects.json"}
pytestmark = needs_shared


@cache
def task(name: str) -> Task:
    if name == "winobias":
        return tasks.winobias(SHARED / "data/winobias", split="dev", conventions="paper")
    return tasks.professions(SHARED / "data/professions", conventions="paper")


@cache
def problem(name: str, dtype: str) -> LanguageProblem:
    model = load_model(SHARED / "models/tiny-gpt2", dtype=dtype)
    return LanguageProblem(model, task(name), sites=[SITE[name]], holdout=0, direction="maximise")


def oracle(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHARED / "oracle" / file).read_text())
    return found


@pytest.mark.parametrize(("dtype", "key", "tolerance"), [("float64", "fp64", 1e-6), ("float32", "fp32", 1e-4)])
@pytest.mark.parametrize("name", ["winobias", pytest.param("professions", marks=pytest.mark.slow)])
def test_effects_equal_those_of_the_papers_code(name: str, dtype: str, key: str, tolerance: float) -> None:
    expected = oracle(FILE[name])
    masks = torch.stack([torch.tensor(z).flatten() for z in expected["masks"].values()])
    effects = problem(name, dtype).effects(masks).double()
    for mask, mine in zip(expected["masks"], effects, strict=True):
        theirs = torch.tensor(expected[key][mask]["effects"], dtype=torch.float64)
        assert ((mine - theirs).abs() / (1 + theirs.abs())).max() < tolerance, mask


@pytest.mark.parametrize("name", ["winobias", pytest.param("professions", marks=pytest.mark.slow)])
def test_pgbct_reproduces_the_recorded_optimisation_run(name: str) -> None:
    recorded = oracle(f"traj_tiny_{name}_lr0.1_lam1e-3.json")
    search = PGBCT(l1=1e-3, l2=1e-3, lr=0.1, epochs=3, batch_size=32, order=recorded["order"])
    states = [state for state in search.steps(problem(name, "float32")) if state.phase == "descent"]
    assert len(states) == len(recorded["z"])
    for state, z in zip(states, recorded["z"], strict=True):
        assert (state.z - torch.tensor(z).flatten()).abs().max() < 1e-3
    truncated = torch.tensor(recorded["z_truncated"][-1]).flatten()
    assert torch.equal((states[-1].z >= 0.5).float(), truncated)
