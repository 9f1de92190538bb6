"""Neutral text: every token but the first is scored, and side problems patch all of it."""

from pathlib import Path

import pytest
import torch

from cotrace import tasks
from cotrace.errors import InputError
from cotrace.problem import LanguageProblem, side_problem
from tests import tiny

LINES = ["w1 w2 w3 w4", "", "w5", "w6 w7 w8", "w9 w10"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "neutral.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def mean_loss(ids: torch.Tensor) -> float:
    """Of every token but the first, in float64 (the model's own loss is taken in float32)."""
    with torch.no_grad():
        log_p = torch.log_softmax(tiny.model("gpt2").module(ids).logits[0, :-1], -1)
    return -log_p.gather(1, ids[0, 1:, None]).mean().item()


def test_the_level_is_the_models_own_loss_on_every_token_but_the_first(file: Path) -> None:
    task = tasks.text(file)
    assert [pair.id for pair in task.pairs] == ["line 1", "line 4", "line 5"]
    assert task.skipped == (("line 3", "a single word: nothing follows it that could be scored"),)
    model = tiny.model("gpt2")
    first = LanguageProblem(model, tiny.task(), holdout=0)
    found = side_problem(first, task, holdout=0).training.base_levels
    for i, line in enumerate((LINES[0], LINES[3], LINES[4])):
        ids = model.require_tokenizer()(line, return_tensors="pt")["input_ids"]
        assert found[i].item() == pytest.approx(mean_loss(ids), abs=1e-10)


def test_chosen_components_take_the_mean_donor_at_every_token(file: Path) -> None:
    first = LanguageProblem(tiny.model("gpt2"), tiny.task(), sites=["mlp_output"], holdout=0)
    side = side_problem(first, tasks.text(file), holdout=0)
    assert "mean donor of random words" in side.task
    model = tiny.model("gpt2")
    runs: list[torch.Tensor] = []
    module = model.module.transformer.h[1].mlp
    handle = module.register_forward_hook(lambda m, i, out: runs.append(out[0]))
    with torch.no_grad():
        for pair in tiny.task().pairs:
            model.module(model.require_tokenizer()(pair.counterfactual, return_tensors="pt")["input_ids"])
    handle.remove()
    mean = torch.cat(runs).mean(0)
    handle = module.register_forward_hook(lambda m, i, out: mean.expand_as(out))
    ids = model.require_tokenizer()(LINES[0], return_tensors="pt")["input_ids"]
    loss = mean_loss(ids)
    handle.remove()
    effect = side.effects(["L1.mlp"])[0] + side.training.base_levels[0]
    assert effect.item() == pytest.approx(loss, abs=1e-10)


def test_the_text_that_ships_is_the_default_and_can_be_loaded_by_name() -> None:
    assert len(tasks.text(most=7).pairs) == 7
    assert tasks.load("text").metric == "nll"


def test_bad_texts_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a text file"):
        tasks.text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="most is 0"):
        tasks.text(most=0)
    (tmp_path / "empty.txt").write_text("one\n")
    with pytest.raises(InputError, match="the data set is empty"):
        tasks.text(tmp_path / "empty.txt")
