"""What both sides of a row start from: a small model in a folder, pairs of one length, and the rows themselves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

import cotrace as ct
from tests import tiny

TOLERANCE = 1e-5
ROWS: dict[str, Callable[[], tuple[Any, Any]]] = {}
"""First cell of a row of the page -> what it gives there, and here."""


def row(call: str) -> Callable[[Callable[[], tuple[Any, Any]]], None]:
    def kept(both: Callable[[], tuple[Any, Any]]) -> None:
        ROWS[call] = both

    return kept


def compare() -> None:
    """Run every row, and print which and how far apart the numbers are at most."""
    warnings.simplefilter("ignore")
    found = {}
    for call, both in ROWS.items():
        theirs, ours = both()
        if not isinstance(theirs, Tensor):
            assert theirs == ours, f"{call}: {theirs} there, {ours} here"
            found[call] = 0.0
            continue
        theirs, ours = theirs.detach().double(), ours.detach().double()
        torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0, msg=lambda said, call=call: f"{call}: {said}")
        assert ours.numel() == 1 or ours.std() > 100 * TOLERANCE, f"{call}: numbers that are all alike show nothing"
        found[call] = (theirs - ours).abs().max().item()
    print(json.dumps(found))  # noqa: T201  # a process of its own, which the test reads


@cache
def folder() -> str:
    """A random GPT-2 as other libraries load it."""
    path = Path(mkdtemp())
    tiny.model("gpt2", torch.float32).module.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return str(path)


@cache
def model() -> ct.LanguageModel:
    return ct.load_model(folder())


BASE = ["w1 w2 w3 w4 w5", "w6 w7 w8 w9 w10", "w11 w12 w13 w14 w15"]
OTHER = ["w1 w22 w23 w4 w5", "w6 w27 w28 w9 w10", "w11 w32 w33 w14 w15"]
ANSWERS = [("w40", "w41"), ("w42", "w43"), ("w44", "w45")]


@cache
def task() -> ct.Task:
    """Three pairs of five tokens; the second is the subject."""
    rows = zip(BASE, OTHER, ANSWERS, strict=True)
    records = [
        {"base": base, "counterfactual": other, "answers": [f" {one}" for one in answers], "subject": base.split()[1]}
        | {"counterfactual_spans": {"subject": [at := other.index(other.split()[1]), at + len(other.split()[1])]}}
        for base, other, answers in rows
    ]
    return ct.Task.from_records(records, metric="logit_diff")


def problem(sites: Sequence[str] = ("head_output",), **options: Any) -> ct.LanguageProblem:
    return ct.LanguageProblem(model(), task(), sites=list(sites), **{"holdout": 0, "direction": "maximise"} | options)


def token(word: str) -> int:
    return int(word.strip()[1:])


def pairs_of(words: Sequence[str]) -> Tensor:
    """Token ids [pair, position]."""
    return torch.tensor([[token(word) for word in one.split()] for one in words])


CHOSEN = torch.tensor([[token(a), token(b)] for a, b in ANSWERS])


def difference(logits: Tensor) -> Tensor:
    """The logit difference of each pair."""
    last = logits[:, -1].float()
    return (last.gather(1, CHOSEN[:, :1]) - last.gather(1, CHOSEN[:, 1:]))[:, 0]
