"""An evaluation that is stopped goes on where it stood: nothing is evaluated twice, and the bytes are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import cotrace as ct
from cotrace.batches import Layout
from cotrace.cli.main import run
from cotrace.problem.scorer import HERE, Scorer
from cotrace.runs.journal import Journal, forget, journaling, scorer_mark
from tests import tiny
from tests.conftest import records, write_lines

SAME = ("frontier.csv", "masks.safetensors", "selection.json", "effects.safetensors", "evaluation.json")


Ran = list[tuple[bytes, bytes, tuple[int, ...]]]


@contextmanager
def stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ran]:
    """What batches a journal runs, of which pairs under which masks; interrupted once there were so many, 0 never."""
    ran, own = list[tuple[bytes, bytes, tuple[int, ...]]](), Scorer.batch_scores

    def note(self: Scorer, masks: torch.Tensor, layout: Layout, *given: object, **named: object) -> object:
        if isinstance(self.executor, Journal):
            if len(ran) == batches > 0:
                raise KeyboardInterrupt
            ran.append((scorer_mark(self), masks.numpy().tobytes(), layout.examples))
        return own(self, masks, layout, *given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "batch_scores", note)
        yield ran


@pytest.fixture
def asked(tiny_folder: Path, tmp_path: Path) -> list[str]:
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [{**row, "id": f"{row['id']}{i}"} for i in range(2) for row in records()]
    )
    options = [
        "--search",
        "topk",
        "--holdout",
        "0.5",
        "--direction",
        "minimise",
        "--max-size",
        "2",
        "--batch-tokens",
        "64",
        "--quiet",
    ]
    return ["trace", "--model", str(tiny_folder), "--task", str(pairs), "--evaluation", "quick", *options]


@pytest.mark.parametrize(
    "goal",
    [
        [],
        pytest.param(["--plus", "0.5*own:probability:minimise"], marks=pytest.mark.slow),
        pytest.param(["--constraint", "own:nll+-5"], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_evaluation_goes_on_at_the_same_place(
    goal: list[str],
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [*asked, *goal]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with stopped_after(0, monkeypatch) as all_of_them:
        assert run([*asked, "--out", str(whole)]) == 0
    half = len(all_of_them) // 2
    with stopped_after(half, monkeypatch) as first:
        assert run([*asked, "--out", str(cut)]) == 130
    assert first == all_of_them[:half] != []
    assert list((cut / "checkpoint" / "evaluation").glob("*.safetensors"))
    assert "cotrace resume" in capsys.readouterr().err
    with stopped_after(0, monkeypatch) as second:
        assert run(["resume", str(cut), "--quiet"]) == 0
    assert not {*first} & {*second}, "what was evaluated is not evaluated again"
    assert {*all_of_them} <= {*first, *second}
    assert [name for name in SAME if (cut / name).read_bytes() != (whole / name).read_bytes()] == []
    assert not (cut / "checkpoint").exists()


def test_what_cotrace_evaluate_had_done_is_not_done_again(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert run([*asked, "--out", str(out)]) == 0
    with stopped_after(0, monkeypatch) as all_of_them:
        assert run(["evaluate", str(out), "--level", "standard", "--quiet"]) == 0
    judged = (out / "evaluation.json").read_bytes()
    with stopped_after(3, monkeypatch):
        assert run(["evaluate", str(out), "--level", "standard", "--quiet"]) == 130
    with stopped_after(0, monkeypatch) as rest:
        assert run(["evaluate", str(out), "--level", "standard", "--quiet"]) == 0
    assert not {*all_of_them[:3]} & {*rest}
    assert len(rest) < len(all_of_them)
    assert (out / "evaluation.json").read_bytes() == judged


def problem(**options: object) -> ct.LanguageProblem:
    given = {"sites": ["head_output"], "batch_tokens": 40, "direction": "maximise"} | options
    return ct.LanguageProblem(tiny.model("gpt2"), tiny.task(12), **given)  # type: ignore[arg-type]


def test_gradients_are_kept_where_their_loss_is_known_and_only_for_their_own_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, z = problem(), torch.full((len(problem().space),), 0.5)
    expected, wavy = own.gradient(z), own.gradient(z, torch.sin)
    with journaling(own, tmp_path):
        own.gradient(z)
    assert own.training.scorer.executor is HERE
    monkeypatch.setattr(Scorer, "batch_slope", None)
    with journaling(own, tmp_path) as journal:
        assert journal.found == len(own.training.scorer.all_layouts)
        assert torch.equal(own.gradient(z), expected)
        for asked in (lambda: own.gradient(z, torch.sin), lambda: own.gradient(z / 2), lambda: own.heldout.gradient(z)):
            with pytest.raises(TypeError):  # it had to be run
                asked()
    monkeypatch.undo()
    with journaling(own, tmp_path):
        assert torch.equal(own.gradient(z, torch.sin), wavy)
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_problem_of_a_sum_or_constraint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = problem(), problem(donors="zero")
    goals = [ct.WeightedSum([(1, first), (2, second)]), ct.Constrained(first, [ct.Constraint(second, 0.5)])]
    masks = torch.eye(len(first.space))[:3]

    def answers(goal: ct.WeightedSum | ct.Constrained) -> torch.Tensor:
        return torch.cat([goal.value(masks)[:, None], goal.side_values(masks)], 1)

    expected = [answers(goal) for goal in goals]
    for goal in goals:
        with journaling(goal, tmp_path):
            answers(goal)
    assert {one.training.scorer.executor for one in (first, second)} == {HERE}
    monkeypatch.setattr(Scorer, "batch_scores", None)
    for goal, wanted in zip(goals, expected, strict=True):
        with journaling(goal, tmp_path):
            assert torch.equal(answers(goal), wanted)


def test_scorers_of_other_tokens_donors_or_batches_are_told_apart() -> None:
    several = [
        problem(),
        problem(seed=1),
        problem(donors="zero"),
        problem(donors="noise=0.5"),
        problem(donors="noise=0.25"),
        problem(batch_tokens=80),
        problem(sites=["mlp_output"]),
    ]
    assert len({scorer_mark(one.training.scorer) for one in several}) == len(several)
    assert scorer_mark(problem().training.scorer) == scorer_mark(several[0].training.scorer)


def test_a_damaged_journal_is_said_and_evaluated_again(tmp_path: Path) -> None:
    own, z = problem(), torch.ones(len(problem().space))
    with journaling(own, tmp_path):
        expected = own.effects(z)
    (path,) = (tmp_path / "checkpoint" / "evaluation").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"is not what was written .*: what it held is evaluated again"):
        again = Journal(tmp_path, HERE)
    assert again.found == 0
    own.training.scorer.executor = again
    assert torch.equal(own.effects(z), expected)
