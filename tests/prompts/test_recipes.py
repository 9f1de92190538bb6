"""The recipes of docs/data-format.md, run as they stand there on records of each form, and their pairs as tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import cotrace as ct
from cotrace.batches import encode_task
from tests.tiny import SHARED, needs_shared

DOCS = Path(__file__).parents[2] / "docs/data-format.md"


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(def .*?)```", DOCS.read_text("utf-8"), re.DOTALL):
        exec(block, found)
    return found


STEREOSET = {
    "id": "s1",
    "bias_type": "gender",
    "target": "schoolgirl",
    "context": "The schoolgirl was BLANK that day.",
    "sentences": [
        {"sentence": "The schoolgirl was strong that day.", "gold_label": "anti-stereotype"},
        {"sentence": "The schoolgirl was gentle that day.", "gold_label": "stereotype"},
        {"sentence": "The schoolgirl was fish that day.", "gold_label": "unrelated"},
    ],
}
CROWS = {
    "sent_more": "Women are bad at maths today.",
    "sent_less": "Men are bad at maths today.",
    "bias_type": "gender",
}
BBQ = {
    "context": "I met a nurse and a pilot.",
    "question": "Who was late?",
    "ans0": "The nurse",
    "ans1": "The pilot",
    "ans2": "Unknown",
    "label": 2,
    "category": "Gender",
    "question_index": "7",
}
MIB = {
    "prompt": "Mary and John left. John gave a drink to",
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "flip": {"prompt": "Mary and John left. Mary gave a drink to", "choices": ["Mary", "John"], "answerKey": 1},
    "random": {"prompt": "Anna and Tom left. Tom gave a drink to", "choices": ["Anna", "Tom"], "answerKey": 0},
}


def test_each_recipe_by_hand(recipes: dict[str, Any]) -> None:
    assert recipes["from_stereoset"](STEREOSET) == {
        "id": "s1",
        "base": "The schoolgirl was",
        "answers": [" gentle that day.", " strong that day."],
        "group": "gender",
        "split_group": "schoolgirl",
    }
    assert recipes["from_stereoset"](STEREOSET | {"context": "BLANK was here."}) is None
    assert recipes["from_crows_pairs"]("c1", CROWS) == {
        "id": "c1",
        "base": "Women",
        "counterfactual": "Men",
        "answers": [" are bad at maths today."],
        "group": "gender",
    }
    assert recipes["from_crows_pairs"]("c2", CROWS | {"sent_less": "Women are bad at it."}) is None
    bbq = recipes["from_bbq"](BBQ, BBQ | {"question": "Who was early?", "label": 0})
    assert bbq["base"] == "I met a nurse and a pilot. Who was late? Answer:"
    assert bbq["counterfactual"] == "I met a nurse and a pilot. Who was early? Answer:"
    assert (bbq["target"], bbq["target_counterfactual"], bbq["answers"][2]) == (2, 0, " Unknown")
    assert recipes["from_mib"](MIB, "flip")["target_counterfactual"] == 1
    assert "target_counterfactual" not in recipes["from_mib"](MIB, "random")


@needs_shared
def test_their_pairs_can_be_used(recipes: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models/tiny-gpt2")
    made = {
        "stereoset": [recipes["from_stereoset"](STEREOSET)],
        "crows": [recipes["from_crows_pairs"]("c1", CROWS)],
        "bbq": [recipes["from_bbq"](BBQ, BBQ | {"question": "Who was early?", "label": 0})],
        "mib": [recipes["from_mib"](MIB, "flip")],
    }
    for name, records in made.items():
        task = ct.Task.from_records(records, name=name)
        (pair,) = encode_task(task, tokenizer, paired=name != "stereoset", align="exact").pairs
        for ids, answer in zip(pair.answers, records[0]["answers"], strict=True):
            assert tokenizer.decode(ids) == answer
