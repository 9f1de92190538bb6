"""Patching against an independent answer: plain transformers with hooks written out by hand, one pair at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from tests import tiny


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any], before: bool = False) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def log_p(module: nn.Module, prompt: list[int], answer: list[int]) -> float:
    logits = module(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


def parts(model: LanguageModel, layer: int) -> tuple[nn.Module, nn.Module]:
    """The modules whose inputs are the concatenated heads and the hidden neurons."""
    if "gpt2" in model.name:
        block = model.module.transformer.h[layer]
        return block.attn.c_proj, block.mlp.c_proj
    block = model.module.model.layers[layer]
    return block.self_attn.o_proj, block.mlp.down_proj


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["head_output", "mlp_neuron"])
@torch.no_grad()
def test_projection_inputs_swapped_by_hand(family: str, site: str) -> None:
    model, task = tiny.model(family), tiny.task()
    layer, chosen = 1, [0, 2]
    name = "head" if site == "head_output" else "neuron"
    problem = LanguageProblem(model, task, sites=[site], holdout=0)
    scores = problem.scores([f"L{layer}.{name}{unit}" for unit in chosen])
    target = parts(model, layer)[site == "mlp_neuron"]
    width = model.layers[layer].d_head if site == "head_output" else 1
    features = [unit * width + i for unit in chosen for i in range(width)]
    for e, pair in enumerate(task.pairs):
        ids = [problem.model.require_tokenizer()(text)["input_ids"] for text in (pair.base, pair.counterfactual)]
        seen: list[Tensor] = []

        def record(module: nn.Module, args: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen.append(args[0].clone())

        with hooked(target, record, before=True):
            model.module(input_ids=torch.tensor([ids[1]]))

        def swap(
            module: nn.Module, args: tuple[Tensor, ...], seen: list[Tensor] = seen, n: int = len(ids[0])
        ) -> tuple[Tensor]:
            own = args[0].clone()
            own[:, :n, features] = seen[0][:, :n, features]
            return (own,)

        for a, answer in enumerate(pair.answers):
            tokens = problem.model.require_tokenizer()(answer)["input_ids"]
            with hooked(target, swap, before=True):
                assert scores[e, a].item() == pytest.approx(log_p(model.module, ids[0], tokens), abs=1e-6)


@torch.no_grad()
def test_attention_pattern_of_gpt2_swapped_by_hand() -> None:
    """softmax weights from ``output_attentions``; the head's output is recomputed from the running values."""
    model, task = tiny.model("gpt2"), tiny.task(answer_tokens=(1, 1))
    problem = LanguageProblem(model, task, sites=["attention_pattern"], holdout=0)
    scores = problem.scores(["L1.pattern2"])
    model.module.set_attn_implementation("eager")
    block = model.module.transformer.h[1].attn
    for e, pair in enumerate(task.pairs):
        ids = [torch.tensor([model.require_tokenizer()(t)["input_ids"]]) for t in (pair.base, pair.counterfactual)]
        donor = model.module(input_ids=ids[1], output_attentions=True).attentions[1][0, 2]
        values: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, values: list[Tensor] = values) -> None:
            values.append(output[..., 2 * 32 + 2 * 8 : 2 * 32 + 3 * 8])

        def swap(module: nn.Module, args: tuple[Tensor, ...], w: Tensor = donor, v: list[Tensor] = values) -> Any:
            own = args[0].clone()
            own[..., 16:24] = w @ v[0]
            return (own,)

        with hooked(block.c_attn, keep), hooked(block.c_proj, swap, before=True):
            logits = model.module(input_ids=ids[0]).logits[0, -1].log_softmax(-1)
        expected = [logits[model.require_tokenizer()(a)["input_ids"][0]].item() for a in pair.answers]
        assert scores[e].tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_base_scores_are_those_of_plain_transformers(family: str) -> None:
    model, task = tiny.model(family), tiny.task(answer_tokens=(1, 3, 2))
    problem = LanguageProblem(model, task, sites=["head_output"], holdout=0)
    assert problem.packing.packed
    for e, pair in enumerate(task.pairs):
        prompt = model.require_tokenizer()(pair.base)["input_ids"]
        for a, answer in enumerate(pair.answers):
            expected = log_p(model.module, prompt, model.require_tokenizer()(answer)["input_ids"])
            assert problem.training.scorer.base[e, a].item() == pytest.approx(expected, abs=1e-6)
