"""Metrics of the whole set on a model: gradients against finite differences, in batches and over some examples."""

from dataclasses import replace

import pytest
import torch

from cotrace.errors import InputError
from cotrace.metrics import GROUPS
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.search import PGBCT, Pursuit
from tests import tiny

N = 12


def task(count: int = 8) -> Task:
    plain = tiny.task(count, answer_tokens=(1, 2))
    pairs = [
        replace(pair, group="ab"[i % 2], favourable=i // 2 % 2, label=i // 4 % 2, weight=1.0 + i % 3)
        for i, pair in enumerate(plain.pairs)
    ]
    return replace(plain, pairs=tuple(pairs))


def problem(metric: str, **options: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), task(), metric=metric, holdout=0, **{"direction": "maximise", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [*GROUPS, "kl", "accuracy", "nll", "logit_diff"])
def test_gradient_matches_finite_differences_also_in_batches(metric: str) -> None:
    whole, batched = problem(metric), problem(metric, batch_tokens=1)
    assert len(batched.training.scorer.all_layouts) > 1 == len(whole.training.scorer.all_layouts)
    z = torch.linspace(0.1, 0.9, N, dtype=torch.float64)
    gradient = whole.gradient(z)
    assert torch.allclose(gradient, batched.gradient(z), atol=1e-10)
    for i in range(0, N, 3):
        step = torch.zeros_like(z).index_fill(0, torch.tensor([i]), 1e-5)
        difference = (whole.value(z + step) - whole.value(z - step)) / 2e-5
        assert gradient[i].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("metric", GROUPS)
def test_the_mean_gradient_over_a_partition_of_the_pairs_is_the_full_one(metric: str) -> None:
    p = problem(metric)
    z = torch.full((N,), 0.3, dtype=torch.float64)

    def objective(m: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(3 * m)

    parts = [[6, 1], [0, 3], [2, 4], [5, 7]]
    mean = torch.stack([p.gradient(z, objective, part) for part in parts]).mean(0)
    full = p.gradient(z, objective)
    assert torch.allclose(mean, full, atol=1e-12)
    chain = 3 * torch.sigmoid(3 * p.value(z)) * (1 - torch.sigmoid(3 * p.value(z)))
    assert torch.allclose(full, chain * p.gradient(z), atol=1e-12)
    assert full.abs().max() > 1e-5


def test_value_is_the_change_of_the_soft_gap_and_reported_the_hard_one() -> None:
    p = problem("demographic_parity_gap")
    masks = torch.stack([torch.zeros(N), torch.ones(N)])
    scores = p.scores(masks)
    shares = torch.softmax(scores, -1)
    gaps = []
    for table in (shares, (scores == scores.amax(-1, keepdim=True)).double()):
        rates = []
        for group in "ab":
            own = [(pair.weight, i, pair.favourable) for i, pair in enumerate(task().pairs) if pair.group == group]
            total = sum(weight for weight, _, _ in own)
            rates.append(sum(weight * table[:, i, favourable] for weight, i, favourable in own) / total)
        gaps.append((rates[0] - rates[1]).abs())
    assert torch.allclose(p.value(masks), gaps[0] - gaps[0][0], atol=1e-12)
    assert torch.allclose(p.reported(masks), gaps[1], atol=1e-12)
    assert p.reported(torch.zeros(N)).shape == ()


def test_there_is_no_effect_of_each_pair_and_the_error_names_value() -> None:
    with pytest.raises(InputError, match="without an effect of each pair: use value"):
        problem("stereotype_gap").effects(torch.zeros(N))


def test_cost_of_a_gradient_counts_its_scores() -> None:
    p = problem("stereotype_gap")
    before = p.cost.forward_equivalents
    p.gradient(torch.zeros(N))
    p.gradient(torch.zeros(N), examples=[0, 1])
    p.value(torch.zeros(3, N))
    assert p.cost.forward_equivalents - before == pytest.approx(3 + (1 + 2 * 0.25) + 3)


def test_keep_mode_runs_from_the_full_swap_to_the_base_run() -> None:
    p = problem("stereotype_gap", mode="keep")
    assert p.value(torch.zeros(N)).item() == pytest.approx(1.0, abs=1e-9)
    assert p.value(torch.ones(N)).item() == pytest.approx(0.0, abs=1e-9)


def test_searches_take_group_metrics_and_results_hold_both_forms() -> None:
    p = problem("equal_opportunity_gap")
    for search in (Pursuit(max_size=3), PGBCT(path=4, epochs=1, batch_size=4)):
        frontier = search(p)
        for selection in frontier:
            assert selection.effect == pytest.approx(p.value(selection).item(), abs=1e-6)
            assert selection.reported == pytest.approx(p.reported(selection).item(), abs=1e-9)
    assert "As reported, from" in p.summary


def test_accuracy_is_followed_soft_and_reported_hard() -> None:
    p = problem("accuracy")
    frontier = Pursuit(max_size=2)(p)
    best = frontier.at(2)
    scores = p.scores(best)
    pairs = task().pairs
    right = torch.tensor([float(scores[i].argmax() == pair.label) for i, pair in enumerate(pairs)])
    weight = torch.tensor([pair.weight for pair in pairs])
    assert best.reported == pytest.approx(((right * weight).sum() / weight.sum()).item())
    mean = (p.effects(best) * weight).sum() / weight.sum()
    assert best.effect == pytest.approx(mean.item(), abs=1e-6)
    assert "level" in frontier.table().columns


def test_towards_a_target_the_value_is_the_distance_saved() -> None:
    plain, target = problem("probability"), problem("probability", direction="target=0.2")
    masks = torch.rand(4, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = plain.reported(masks)
    base = plain.reported(torch.zeros(N))
    assert torch.allclose(target.value(masks), (base - 0.2).abs() - (levels - 0.2).abs(), atol=1e-12)
    assert torch.allclose(target.reported(masks), levels, atol=1e-12)
    assert target.direction == "maximise"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": "target=2"}, "target 2 is outside the range 0 .. 1 of probability"),
        ({"direction": "target=x"}, "write the target as a number"),
        ({"direction": "up"}, "unknown direction 'up'"),
        ({"direction": "target=0.5", "mode": "keep"}, "mode='keep' measures faithfulness"),
    ],
)
def test_directions_that_mean_nothing_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        problem("probability", **options)


def test_kl_equals_the_divergence_of_the_models_own_next_token_distributions() -> None:
    p = problem("kl")
    model, full = tiny.model("gpt2"), torch.ones(N)
    logits = p.scores(torch.stack([torch.zeros(N), full]))
    for i, pair in enumerate(task().pairs):
        ids = model.require_tokenizer()(pair.base, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            base = torch.log_softmax(model.module(ids).logits[0, -1], -1)
        swapped = torch.log_softmax(logits[1, i], -1)
        expected = torch.nn.functional.kl_div(swapped, base, reduction="sum", log_target=True)
        assert p.effects(full)[i].item() == pytest.approx(expected.item(), rel=1e-8)


def test_breakdown_rows_are_means_over_the_subgroups() -> None:
    p = problem("log_odds")
    z = torch.linspace(0, 1, N, dtype=torch.float64)
    effects, pairs = p.effects(z), task().pairs
    found = p.breakdown(z)
    for row in found.rows[:-1]:
        own = [(effects[i].item(), pair.weight) for i, pair in enumerate(pairs) if pair.group == row.value]
        assert row.pairs == len(own)
        assert row.effect == pytest.approx(sum(e * w for e, w in own) / sum(w for _, w in own), rel=1e-12)
    assert found.rows[-1].effect == pytest.approx(p.value(z).item(), rel=1e-12)
    assert list(found.to_frame()["value"]) == ["a", "b", "all"]
    with pytest.raises(InputError, match="unknown field 'colour'"):
        p.breakdown(z, "colour")
    rates = problem("demographic_parity_gap")
    gap = rates.breakdown(torch.ones(N))
    levels = {row.value: row.level for row in gap.rows}
    assert abs(levels["a"] - levels["b"]) == pytest.approx(rates.reported(torch.ones(N)).item(), abs=1e-12)
