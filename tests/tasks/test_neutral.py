"""The neutral texts that ship: the one that a model knows better is taken and said, and an unknown one warned of."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import pytest
import torch

import cotrace as ct
from cotrace import shipped, tasks
from cotrace.editing import measure_edit, neutral
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.problem.goals import CHOOSING_LINES, UnknownText, loss_of
from cotrace.tasks.texts import suited
from tests import tiny


@pytest.fixture(scope="module")
def toy() -> LanguageModel:
    return ct.load_model(shipped.MODEL)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The English text with the first words of its lines alone, for the model that ships has 64 positions."""
    path = tmp_path / "english.txt"
    lines = shipped.ENGLISH_TEXT.read_text().splitlines()
    path.write_text("".join(" ".join(line.split()[:6]) + "\n" for line in lines))
    monkeypatch.setattr(
        import_module("cotrace.tasks.texts"), "SHIPPED", {shipped.NEUTRAL_TEXT: "text_toy", path: "text_english"}
    )
    return path


def loss(model: LanguageModel, path: Path, most: int | None = None) -> float:
    """The model's own loss, a line at a time."""
    losses = []
    for line in path.read_text().splitlines()[:most]:
        ids = model.require_tokenizer()(line, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(model.module(input_ids=ids, labels=ids).loss.item())
    return sum(losses) / len(losses)


def only_knows(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A model whose loss is low on a text with these words alone."""
    monkeypatch.setattr("cotrace.problem.goals.loss_of", lambda model, task: 1.0 if task.name == words else 6.0)


def test_the_loss_is_the_models_own(toy: LanguageModel, short: Path) -> None:
    for path in (shipped.NEUTRAL_TEXT, short):
        assert loss_of(toy, tasks.text(path)) == pytest.approx(loss(toy, path, CHOOSING_LINES), abs=1e-5)


def test_the_text_of_lower_loss_is_taken(toy: LanguageModel, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loss(toy, shipped.NEUTRAL_TEXT, 20) < loss(toy, short, 20)
    assert suited(toy).name == tasks.text(model=toy).name == "text_toy"
    only_knows(toy, monkeypatch, "text_english")
    found = tasks.text(model=toy, most=7)
    assert (found.name, len(found.pairs)) == ("text_english", 7)
    assert found.source == "english.txt, ships with cotrace"


def test_a_text_that_is_named_is_taken_whatever_its_loss(toy: LanguageModel, tmp_path: Path) -> None:
    (path := tmp_path / "own.txt").write_text("zzz qqq xxx\n" * 3)
    assert tasks.text(path, model=toy).source == "own.txt"
    assert neutral(path).of(toy).task.source == "own.txt"


def test_a_tokenizer_that_knows_the_words_of_neither_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read the neutral texts"):
        suited(tiny.model("gpt2"))


def test_an_evaluation_says_which_text_it_was_and_its_loss(toy: LanguageModel) -> None:
    problem = ct.LanguageProblem(toy, ct.tasks.demo_agreement(), holdout=0.5)
    found = ct.evaluate(problem, ct.Selection.parse(["L1.head5"]), level="standard")
    side = next(row for row in found.side_effects if row.task.startswith("text_toy"))
    assert side.before == pytest.approx(loss(toy, shipped.NEUTRAL_TEXT, 60), abs=1e-4)
    assert any("text_toy" in line and f"{side.before:.3g} before" in line for line in found.verdict)
    assert not any("no text that this model knows" in note for note in found.notes)


def test_the_english_text_is_for_models_with_any_tokenizer(toy: LanguageModel) -> None:
    """Of a model with few positions the first tokens of each line are read, where a row has more."""
    assert suited(toy).name == "text_toy"
    lines = shipped.ENGLISH_TEXT.read_text().splitlines()
    assert len(set(lines)) == len(lines) == 60
    assert all(line.isascii() and len(line.split()) > 12 for line in lines)


def test_a_text_that_the_model_does_not_know_is_warned_of(
    toy: LanguageModel, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = math.log(780)
    assert loss(toy, short, 60) > chance / 2, "else this test tests nothing"
    problem = ct.LanguageProblem(toy, ct.tasks.demo_agreement(), holdout=0.5)
    with pytest.warns(UnknownText, match=r"english\.txt.* loss of .*guessing has 6\.66"):
        ct.side_problem(problem, tasks.text(short, most=20), holdout=0)
    found = ct.evaluate(problem, ct.Selection.parse(["L1.head5"]), text=short)
    assert any("no text that this model knows" in note for note in found.notes)
    assert found.side_effects[0].before == pytest.approx(loss(toy, short, 60), abs=1e-4)
    only_knows(toy, monkeypatch, "text_english")
    monkeypatch.setattr("cotrace.editing.side_effects.loss_of", lambda model, task: 6.0)
    one, task = ct.Selection.parse(["L1.head5"]), ct.tasks.demo_agreement()
    with pytest.warns(UnknownText, match=r"english\.txt"):
        row = measure_edit(toy, task, one, sides=[neutral(most=5)])[-1]
    assert row.name == "nll on text_english"
    assert row.before == pytest.approx(loss(toy, short, 5), abs=1e-5)
