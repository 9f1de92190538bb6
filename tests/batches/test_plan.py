"""Batch plans: the same rows as plain first fit, masks that say who attends to whom, long rows by their attention."""

from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import pytest
import torch

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts, encode, segments
from cotrace.batches import packing as plan
from cotrace.batches.segments import attention_cost
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair
from tests import tiny


def encoded(prompt: int, answers: tuple[int, ...] = (1, 2), prefix: int = 0) -> EncodedPair:
    """A pair with a prompt and answers of so many tokens."""
    pair = PromptPair(id="p", base="p", answers=tuple(f"a{i}" for i in range(len(answers))))
    rows = tuple(tuple(range(i, i + count)) for i, count in enumerate(answers))
    return EncodedPair(pair, tuple(range(prompt)), rows, (), tuple(range(prompt)), prefix=prefix)


def by_hand(lengths: list[int], spans: list[int], capacity: int, limit: int) -> list[int]:
    """First fit as it is defined: each goes into the first row that has room."""
    room: list[list[int]] = []
    found = []
    for length, whole in zip(lengths, spans, strict=True):
        row = next((r for r, (free, spare) in enumerate(room) if free >= length and spare >= whole), len(room))
        if row == len(room):
            room.append([capacity, limit])
        room[row][0] -= length
        room[row][1] -= whole
        found.append(row)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [None, 40, 12])
def test_buckets_give_the_rows_of_first_fit(seed: int, limit: int | None) -> None:
    draw = random.Random(seed)
    segments = sorted(
        ((draw.randint(1, 14), draw.randint(0, 0 if limit is None else 9)) for _ in range(draw.randint(1, 80))),
        key=lambda segment: (-segment[0], -segment[1]),
    )
    lengths = [length for length, _ in segments]
    spans = [length + kept for length, kept in segments]
    capacity = max(lengths) + draw.randint(0, 20)
    most = capacity if limit is None else limit
    found = plan._first_fit(np.array(lengths), np.array(spans), capacity, most)
    assert found.tolist() == by_hand(lengths, spans, capacity, most)


def test_the_mask_says_who_attends_to_whom() -> None:
    pairs = [encoded(5, (1, 3), prefix=2), encoded(4, (2, 2), prefix=1), encoded(3)]
    (found,) = answer_layouts(pairs, range(3), Packing(packed=True, batch_tokens=64, keep_prefix=True))
    allowed = found.allowed()
    kept = found.cached.shape[1]
    assert allowed.shape == (found.rows, found.length, kept + found.length)
    for row in range(found.rows):
        for query in range(found.length):
            own, branch = int(found.example[row, query]), int(found.branch[row, query])
            for key in range(found.length):
                same = own >= 0 and own == int(found.example[row, key])
                seen = same and key <= query and int(found.branch[row, key]) in (0, branch)
                assert bool(allowed[row, query, kept + key]) == (seen or key == query)
            for key in range(kept):
                assert bool(allowed[row, query, key]) == (own >= 0 and own == int(found.cached_example[row, key]))


def test_a_layout_keeps_nothing_larger_than_its_tokens() -> None:
    pairs = [encoded(40) for _ in range(6)]
    for found in answer_layouts(pairs, range(6), Packing(packed=True, batch_tokens=1000)):
        for field in fields(Layout):
            value = getattr(found, field.name)
            if isinstance(value, torch.Tensor):
                assert value.numel() <= found.rows * found.length


def test_short_rows_count_by_tokens_and_long_ones_by_what_they_attend_to() -> None:
    assert attention_cost(8, 100) == 800
    assert attention_cost(8, segments.LONG - 12, kept=12) == 8 * (segments.LONG - 12)
    assert attention_cost(1, 4 * segments.LONG) == 16 * segments.LONG
    assert attention_cost(2, segments.LONG, kept=segments.LONG) == 4 * segments.LONG
    pairs = [encoded(4 * segments.LONG, (1, 1)) for _ in range(4)]
    packing = Packing(packed=True, batch_tokens=32 * segments.LONG)
    found = answer_layouts(pairs, range(4), packing)
    assert [one.rows for one in found] == [2, 2], "by tokens alone all four rows would fit"
    assert all(one.cost == 32 * segments.LONG for one in found)


def test_prompts_batched_by_attention_have_the_same_effects_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def built() -> LanguageProblem:
        options = {
            "sites": ["head_output"],
            "holdout": 0,
            "direction": "maximise",
            "packing": "plain",
            "batch_tokens": 400,
        }
        return LanguageProblem(tiny.model("llama"), tiny.task(8), **options)  # type: ignore[arg-type]

    def measured() -> tuple[int, torch.Tensor, torch.Tensor]:
        problem, z = built(), torch.linspace(0, 1, 12, dtype=torch.float64)
        return problem.plan.batches, problem.effects(z), problem.gradient(z)

    plain = measured()
    monkeypatch.setattr(segments, "LONG", 1)
    costly = measured()
    assert costly[0] > plain[0] == 1
    assert torch.allclose(costly[1], plain[1], atol=1e-6)  # norms in float32
    assert torch.allclose(costly[2], plain[2], atol=1e-6)


def test_texts_tokenised_in_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task, model = tiny.task(9), tiny.model("gpt2")

    def encoded_pairs() -> tuple[EncodedPair, ...]:
        return encode.encode_task(task, model.require_tokenizer(), paired=True, align="exact", most_tokens=12).pairs

    whole, sizes = encoded_pairs(), []
    inner = encode._Encoder._tokenise
    monkeypatch.setattr(
        encode._Encoder, "_tokenise", lambda self, texts: sizes.append(len(texts)) or inner(self, texts)
    )
    monkeypatch.setattr(encode, "PORTION", 30)
    assert encoded_pairs() == whole
    assert len(sizes) > 6
