"""Continuations side by side, judges, and the harness: against plain generation, numpy and a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import cotrace as ct
from cotrace.editing import Sampling, continuations, generate, harness
from cotrace.errors import InputError
from tests.editing.models import tiny

SELECTION = ct.Selection.parse(["L0.head1", "L1.mlp", "L1.head2"])
PROMPTS = ["w5 w9 w33", "w7", "w8 w8 w31 w30 w2"]


def lengths(prompts: Sequence[str], texts: Sequence[str]) -> list[int]:
    """A judge: how many words."""
    return [len(text.split()) for text in texts]


def test_greedy_continuations_are_those_of_a_loop_without_cache_or_padding() -> None:
    model = tiny("llama")
    found = generate(model, PROMPTS, SELECTION, "scale=-0.5", sampling=Sampling(max_new_tokens=5, batch_size=2))
    assert [row.base for row in found.rows] == [by_hand(model, prompt) for prompt in PROMPTS]
    with ct.apply(model, SELECTION, "scale=-0.5"):
        assert [row.edited for row in found.rows] == [by_hand(model, prompt) for prompt in PROMPTS]
    assert found.changed == np.mean([row.base != row.edited for row in found.rows])
    assert found.changed > 0


def by_hand(model: ct.models.LanguageModel, prompt: str, new: int = 5) -> str:
    """The likeliest token, appended, again and again; special tokens end and are not shown."""
    tokenizer = model.require_tokenizer()
    row = tokenizer(prompt)["input_ids"]
    start = len(row)
    for _ in range(new):
        row = [*row, int(model.module(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax())]
        if row[-1] == model.module.generation_config.eos_token_id:
            break
    return tokenizer.decode(row[start:], skip_special_tokens=True)


@contextmanager
def own(model: ct.models.LanguageModel, **settings: object) -> Iterator[None]:
    """A model whose generation_config says more than the special tokens."""
    before = model.module.generation_config
    model.module.generation_config = GenerationConfig(eos_token_id=before.eos_token_id, **settings)
    try:
        yield
        assert model.module.generation_config.to_diff_dict().items() >= settings.items(), "it is as it was"
    finally:
        model.module.generation_config = before


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 4},
        {"suppress_tokens": list(range(30))},
        {"min_new_tokens": 5, "forced_eos_token_id": 7},
    ],
    ids=str,
)
def test_at_temperature_0_the_likeliest_token_is_taken_whatever_the_models_own_settings(settings: dict) -> None:
    model = tiny("llama")
    with own(model, **settings):
        found = generate(model, PROMPTS, SELECTION, "scale=-0.5", sampling=Sampling(max_new_tokens=5))
        assert [row.base for row in found.rows] == [by_hand(model, prompt) for prompt in PROMPTS]
    assert found.settings["do_sample"] is False
    assert not set(settings) & set(found.settings)
    assert found.table().title.endswith("; the likeliest token each time")


def test_above_it_the_models_own_settings_are_kept_and_said() -> None:
    model = tiny("gpt2")
    settings = {"top_p": 1e-6, "repetition_penalty": 1.0}
    with own(model, **settings):  # so small a share of the probability leaves the likeliest token alone
        found = generate(model, PROMPTS, SELECTION, sampling=Sampling(max_new_tokens=4, temperature=2, seed=3))
        assert [row.base for row in found.rows] == [by_hand(model, prompt, 4) for prompt in PROMPTS]
    said = {"do_sample": True, "temperature": 2.0, "top_k": 0, "top_p": 1e-6, "max_new_tokens": 4, "seed": 3}
    assert found.settings.items() >= said.items()
    assert "top_p 1e-06" in found.table().title
    assert found.to_dict()["settings"] == found.settings
    assert all(json.loads(line)["settings"]["top_p"] == 1e-6 for line in found.jsonl().splitlines())
    with own(model, top_k=1):
        drawn = generate(model, PROMPTS, SELECTION, sampling=Sampling(max_new_tokens=4, temperature=3.0))
        assert [row.base for row in drawn.rows] == [by_hand(model, prompt, 4) for prompt in PROMPTS]
        assert drawn.settings["top_k"] == 1


def test_drawing_is_seeded_and_leaves_the_global_state() -> None:
    model = tiny("gpt2")
    state = torch.random.get_rng_state()
    first, again, other = (
        continuations(model, PROMPTS, Sampling(temperature=1.0, samples=3, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(first) == 9
    assert torch.equal(torch.random.get_rng_state(), state)


def test_scores_are_averaged_over_samples_and_their_intervals_are_over_prompts() -> None:
    prompts = [f"w{i}" for i in range(10, 22)]
    found = generate(
        tiny("gpt2"), prompts, SELECTION, sampling=Sampling(temperature=1.0, samples=2), judge=lambda p, t: [
            float(len(set(text.split()))) for text in t
        ],
    )  # fmt: skip
    scores = found.scores
    assert scores is not None
    assert scores.pairs == 12
    edited = np.array([row.edited_score for row in found.rows]).reshape(12, 2).mean(1)
    assert scores.after == pytest.approx(edited.mean())
    assert scores.after_interval is not None
    low, high = scores.after_interval
    assert high - low == pytest.approx(2 * 1.96 * edited.std() / np.sqrt(12), rel=0.35), "normal theory"
    rows = [json.loads(line) for line in found.jsonl().splitlines()]
    assert [row["prompt"] for row in rows] == [prompt for prompt in prompts for _ in range(2)]


JUDGES = {
    "too few numbers": (lambda prompts, texts: [1.0], "shape"),
    "a table": (lambda prompts, texts: [[1.0, 2.0]] * len(texts), "shape"),
    "one number": (lambda prompts, texts: 1.0, "shape"),
    "words": (lambda prompts, texts: ["good"] * len(texts), "not one number"),
    "not a number": (lambda prompts, texts: [float("nan")] * len(texts), "not finite"),
    "an error": (lambda prompts, texts: 1 / 0, "ZeroDivisionError"),
    "a module that is not there": ("nowhere_at_all:judge", "cannot import"),
    "no function": ("tests.editing.test_generation:nothing", "has no function"),
    "no colon": ("judge", "name it as"),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_that_is_wrong_is_refused_in_one_line(name: str) -> None:
    judge, words = JUDGES[name]
    with pytest.raises(InputError, match=words) as caught:
        generate(tiny("gpt2"), PROMPTS, SELECTION, sampling=Sampling(max_new_tokens=2), judge=judge)
    assert "\n" not in str(caught.value)


def test_a_judge_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def words(prompts, texts):\n    return [len(t.split()) for t in texts]\n")
    found = generate(
        tiny("gpt2"), PROMPTS, SELECTION, sampling=Sampling(max_new_tokens=3), judge=f"{tmp_path}/mine.py:words"
    )
    assert [row.base_score for row in found.rows] == lengths(PROMPTS, [row.base for row in found.rows])


@pytest.mark.parametrize(
    ("options", "prompts", "words"),
    [
        ({"max_new_tokens": 0}, PROMPTS, "max_new_tokens"),
        ({"temperature": -1.0}, PROMPTS, "temperature"),
        ({"temperature": float("nan")}, PROMPTS, "temperature"),
        ({"samples": 2}, PROMPTS, "give a temperature"),
        ({"max_new_tokens": 64}, PROMPTS, "more than the 64"),
        ({}, [], "no prompts"),
        ({}, [""], "tokenises to nothing"),
    ],
)
def test_wrong_input_is_refused(options: dict[str, float], prompts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        continuations(tiny("gpt2"), prompts, Sampling(**options))


def test_the_harness_is_called_before_and_under_the_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the harness's own signatures, whose one metric is a logit of the model that it is given."""
    model, tokens = tiny("gpt2"), torch.tensor([[3, 4, 5]])

    def simple_evaluate(
        model: SimpleNamespace, tasks: list[str], limit: int | None, batch_size: int
    ) -> dict[str, object]:
        value = model.pretrained(input_ids=tokens).logits[0, -1, 7].item()
        results = {tasks[0]: {"alias": tasks[0], "sample_len": 3, "acc,none": value, "acc_stderr,none": 0.5}}
        return {"results": results, "n-samples": {tasks[0]: {"original": 9, "effective": limit}}}

    lm_eval, backend = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    lm_eval.simple_evaluate, backend.HFLM = simple_evaluate, SimpleNamespace  # type: ignore[attr-defined]
    modules = {"lm_eval": lm_eval, "lm_eval.models": ModuleType("lm_eval.models"), backend.__name__: backend}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    (found,) = harness(model, SELECTION, "zero", tasks=["arc_easy"], limit=4)
    before = model.module(input_ids=tokens).logits[0, -1, 7].item()
    with ct.apply(model, SELECTION, "zero"):
        after = model.module(input_ids=tokens).logits[0, -1, 7].item()
    assert (found.task, found.metric, found.pairs, found.before, found.after) == ("arc_easy", "acc", 4, before, after)
    assert found.before_interval == pytest.approx((before - 0.98, before + 0.98))


def test_a_harness_that_is_not_installed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"pip install 'cotrace\[harness\]'"):
        harness(tiny("gpt2"), SELECTION, tasks=["arc_easy"])
