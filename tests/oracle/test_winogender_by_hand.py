"""Winogender under the paper's conventions, derived again: its own reading of the files, and plain transformers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.gpt2 import modeling_gpt2

from cotrace import tasks
from cotrace.models import load_model
from cotrace.problem import LanguageProblem
from tests.tiny import SHARED, needs_shared

pytestmark = needs_shared
FOLDER, MODEL = SHARED / "data/winogender", SHARED / "models/tiny-gpt2"
Edit = Callable[[int, Tensor], Tensor]


def rows(name: str) -> list[list[str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def items() -> list[tuple[str, str, str]]:
    """(text before the pronoun, first answer, second answer) of each couple, as the paper's code orders them."""
    women = {cells[0]: float(cells[1]) for cells in rows("winogender_occupation_stats.tsv")}
    lines = rows("winogender_templates_structurefilter.tsv")
    found = []
    for couple in zip(lines[::2], lines[1::2], strict=True):
        tails = {}
        for occupation, participant, answer, sentence in couple:
            mark = "$NOM_PRONOUN" if "$NOM_PRONOUN" in sentence else "$POSS_PRONOUN"
            before, tails[answer] = sentence.split(mark)
            before = before.replace("$OCCUPATION", occupation).replace("$PARTICIPANT", participant)
        order = ("0", "1") if women[occupation] > 50 else ("1", "0")
        found.append((before, tails[order[0]], tails[order[1]]))
    return found


@contextmanager
def patterns_edited(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> Iterator[None]:
    """Softmax attention written out, its weights handed through ``edit``."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = edit(module.layer_idx, scores.masked_fill(future, float("-inf")).softmax(-1))
        return (weights @ value).transpose(1, 2), None

    with monkeypatch.context() as patch:
        patch.setattr(modeling_gpt2, "eager_attention_forward", attend)
        yield


def odds(model: Any, prompt: list[int], answers: list[list[int]]) -> float:
    """p(second) / p(first); an answer's p is the geometric mean of its tokens'."""
    means = []
    for answer in answers:
        log_p = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        means.append(log_p.gather(-1, torch.tensor(answer)[:, None]).mean())
    return (means[1] - means[0]).exp().item()


@torch.no_grad()
def test_effects_equal_a_second_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float64, attn_implementation="eager").eval()
    read = AutoTokenizer.from_pretrained(MODEL)
    layers, heads = model.config.n_layer, model.config.n_head
    masks = torch.zeros(3, layers, heads, dtype=torch.float64)
    masks[0] = 1
    masks[1, 0, 1] = masks[1, 2, 3] = 1
    masks[2] = torch.rand(layers, heads, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    task = tasks.winogender(FOLDER, conventions="paper")
    problem = LanguageProblem(load_model(MODEL, dtype="float64"), task, holdout=0, direction="maximise")
    effects = problem.effects(masks.flatten(1)).double()
    for e, (before, *answers) in enumerate(items()):
        she, he = (read(before + pronoun)["input_ids"] for pronoun in ("she", "he"))
        tails = [read(answer)["input_ids"] for answer in answers]
        donor: dict[int, Tensor] = {}

        def keep(layer: int, weights: Tensor, kept: dict[int, Tensor] = donor) -> Tensor:
            kept[layer] = weights
            return weights

        with patterns_edited(monkeypatch, keep):
            model(torch.tensor([he]))
        base = odds(model, she, tails)
        for mask, mine in zip(masks, effects[:, e], strict=True):

            def swap(layer: int, own: Tensor, z: Tensor = mask, kept: dict[int, Tensor] = donor) -> Tensor:
                size = kept[layer].shape[-1]
                share = z[layer][None, :, None, None]
                own[..., :size, :size] = share * kept[layer] + (1 - share) * own[..., :size, :size]
                return own

            with patterns_edited(monkeypatch, swap):
                assert mine.item() == pytest.approx(odds(model, she, tails) / base - 1, abs=1e-6)
