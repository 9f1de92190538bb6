"""Interpolated inputs (EAP-IG on nodes) against the same by plain hooks and autograd; refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.search import Attribution, Ensemble, Matryoshka
from tests.tiny import model, task

SHARE = 0.3


def problem(**options: Any) -> ct.LanguageProblem:
    pairs = task(3, answer_tokens=(1, 1)).pairs
    return ct.LanguageProblem(
        model(options.pop("family", "gpt2")), ct.Task(name="t", pairs=pairs), holdout=0, **options
    )


def by_hand(problem: ct.LanguageProblem, share: float) -> torch.Tensor:
    """For each head: (donor - base value) x gradient of the mean log odds at inputs between both prompts."""
    net, table = problem.model.module, problem.model.module.get_input_embeddings()
    total = torch.zeros(12, dtype=torch.float64)
    for pair in problem.encoding.pairs:
        ends = [table(torch.tensor([p])).detach() for p in (pair.prompt, pair.donor)]
        seen = [run(net, inputs)[1] for inputs in ends]
        logits, values = run(net, torch.lerp(ends[0], ends[1], share))
        log_p = logits[0, -1].log_softmax(-1)
        target = pair.pair.target
        odds = log_p[pair.answers[1 - target][0]] - log_p[pair.answers[target][0]]
        for layer, (slope, base, donor) in enumerate(
            zip(torch.autograd.grad(odds, values), seen[0], seen[1], strict=True)
        ):
            per_head = (slope * (donor - base).detach()).reshape(-1, 4, 8).sum((0, 2))
            total[4 * layer : 4 * layer + 4] += per_head / len(problem.encoding.pairs)
    return total


def run(net: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and what goes into each layer's output projection."""
    values: list[torch.Tensor] = []
    hooks = [
        block.attn.c_proj.register_forward_pre_hook(lambda module, args: values.append(args[0]))
        for block in net.transformer.h
    ]
    try:
        logits = net(inputs_embeds=inputs.detach().requires_grad_()).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, values


@pytest.mark.parametrize("packing", ["packed", "plain"])
def test_gradients_at_interpolated_inputs_are_those_of_plain_hooks(packing: str) -> None:
    p = problem(sites=["head_output"], metric="log_odds", packing=packing)
    before = p.cost.forward_equivalents
    found = p.input_gradient(SHARE)
    assert p.cost.forward_equivalents - before == 2
    assert found.tolist() == pytest.approx(by_hand(p, SHARE).tolist(), abs=1e-9)
    parts = torch.stack([p.input_gradient(SHARE, [i]) for i in range(3)]).mean(0)
    assert parts.tolist() == pytest.approx(found.tolist(), abs=1e-9)


def test_at_the_base_prompt_it_is_the_gradient_along_the_mask() -> None:
    p = problem(sites=["head_output", "mlp_output"], family="llama")
    at_base = p.input_gradient(0.0)
    assert at_base.tolist() == pytest.approx(p.gradient(torch.zeros(len(p.space))).double().tolist(), abs=1e-9)
    assert p.input_gradient(0.5).tolist() != pytest.approx(at_base.tolist(), abs=1e-4)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_searches_rank_by_it(mode: Any) -> None:
    p = problem(sites=["head_output"], metric="log_odds", mode=mode, direction="maximise")
    first = next(Attribution(at="inputs", points=1).steps(p)).tensors["slopes"][0]
    scale = -p.training.swing.item() if mode == "keep" else 1.0
    sign = -1 if mode == "keep" else 1
    expected = sign * by_hand(p, 0.5) / scale
    assert first.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
    both = list(Ensemble(of=("none", "inputs"), points=1).steps(p))[-1].tensors["scores"]
    assert torch.equal(both[1], first)
    assert len(Matryoshka(updates=2, start="inputs")(p)) == 12


def test_refusals() -> None:
    with pytest.raises(InputError, match="use donors='counterfactual'"):
        problem(sites=["head_output"], donors="zero").input_gradient(0.5)
    with pytest.raises(InputError, match="not of attention_pattern: use the site head_output"):
        problem(sites=["attention_pattern"]).input_gradient(0.5)
    pairs = task(3, answer_tokens=(1, 1)).pairs
    longer = tuple(replace(pair, counterfactual=f"w3 {pair.counterfactual}") for pair in pairs)
    uneven = ct.LanguageProblem(
        model("gpt2"), ct.Task(name="t", pairs=longer), sites=["head_output"], align="ends", holdout=0
    )
    with pytest.raises(InputError, match="need prompts of equal length: use align='exact'"):
        uneven.input_gradient(0.5)
