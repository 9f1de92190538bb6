"""Per-example metrics against probabilities worked out with numpy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cotrace.errors import InputError
from cotrace.metrics import METRICS, Answers, Metric, metric_named, towards
from cotrace.objectives import TRANSFORM_OF_METRIC, transformation
from cotrace.prompts import PromptPair

P = np.array([[0.5, 0.2, 0.1], [0.3, 0.6, 0.05]])
BASE = np.array([[0.2, 0.4, 0.1], [0.25, 0.5, 0.1]])


def pairs(**options: object) -> list[PromptPair]:
    three = {"answers": (" a", " b", " c"), "base": "x"}
    return [
        PromptPair(id="0", target=0, **three, **options),  # type: ignore[arg-type]
        PromptPair(id="1", target=2, **three, **options),  # type: ignore[arg-type]
    ]


def answers(**options: object) -> Answers:
    return Answers.of(pairs(**options), torch.float64)


def log(p: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.log(p))


def per_example(name: str) -> Metric:
    metric = metric_named(name)
    assert isinstance(metric, Metric)
    return metric


EXPECTED = {
    "odds_ratio": [(0.3 / 0.5) / (0.5 / 0.2) - 1, (0.9 / 0.05) / (0.75 / 0.1) - 1],
    "log_odds": [math.log((0.3 / 0.5) / (0.5 / 0.2)), math.log((0.9 / 0.05) / (0.75 / 0.1))],
    "probability": [0.3, -0.05],
    "nll": [-math.log(0.5 / 0.2), -math.log(0.05 / 0.1)],
    "logit_diff": [
        math.log(0.5 / math.sqrt(0.2 * 0.1)) - math.log(0.2 / math.sqrt(0.4 * 0.1)),
        math.log(0.05 / math.sqrt(0.3 * 0.6)) - math.log(0.1 / math.sqrt(0.25 * 0.5)),
    ],
    "accuracy": [0.5 / 0.8 - 0.2 / 0.7, 0.05 / 0.95 - 0.1 / 0.85],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_effects_equal_the_formula_in_probabilities(name: str) -> None:
    effects = per_example(name).effects(log(np.stack([P, BASE])), log(BASE), answers())
    assert effects[0].tolist() == pytest.approx(EXPECTED[name], rel=1e-12)
    assert effects[1].tolist() == pytest.approx([0.0, 0.0], abs=1e-15)


def test_kl_equals_scipys_entropy_and_ignores_a_shift_of_logits() -> None:
    generator = np.random.default_rng(0)
    z, base = generator.normal(size=(2, 2, 7)), generator.normal(size=(2, 7))
    expected = [[stats.entropy(np.exp(base[e]), np.exp(z[m, e])) for e in range(2)] for m in range(2)]
    effects = per_example("kl").effects(torch.from_numpy(z) + 5, torch.from_numpy(base) - 3, answers())
    assert np.allclose(effects.numpy(), expected, atol=1e-12)


def test_accuracy_is_hard_where_reported_and_takes_the_label_before_the_target() -> None:
    accuracy, scores = per_example("accuracy"), log(np.stack([P, BASE]))
    assert accuracy.reported(scores, log(BASE), answers()).tolist() == [0.5, 0.0]
    assert accuracy.reported(scores, log(BASE), answers(label=1)).tolist() == [0.5, 1.0]
    assert accuracy.soft_level(log(P), log(BASE), answers()).item() == pytest.approx((0.5 / 0.8 + 0.05 / 0.95) / 2)


def test_columns_that_a_pair_leaves_empty_do_not_count() -> None:
    two = [pairs()[0], PromptPair(id="1", base="x", answers=(" a", " b"), target=1)]
    scores = log(P)
    scores[1, 2] = 0.0  # what the scorer leaves there: log 1
    for name in ("log_odds", "logit_diff", "accuracy"):
        level = per_example(name).levels(scores, scores, Answers.of(two, torch.float64))[1].item()
        expected = {"log_odds": math.log(0.3 / 0.6), "logit_diff": math.log(0.6 / 0.3), "accuracy": 0.6 / 0.9}
        assert level == pytest.approx(expected[name], rel=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "logit_diff"])
def test_metrics_that_compare_answers_refuse_pairs_with_one(name: str) -> None:
    alone = Answers.of([PromptPair(id="0", base="x", answers=(" a",))], torch.float64)
    with pytest.raises(InputError, match="1 of 1 pairs have one answer"):
        per_example(name).check(alone)


def test_towards_a_target_is_how_much_nearer_the_mean_level_comes() -> None:
    metric = towards(per_example("probability"), 0.3)
    base, now = (0.2 + 0.1) / 2, (0.5 + 0.05) / 2
    value = metric.value(log(P), log(BASE), answers())
    assert value.item() == pytest.approx(abs(base - 0.3) - abs(now - 0.3), rel=1e-12)
    assert metric.reported(log(P), log(BASE), answers()).item() == pytest.approx(now, rel=1e-12)


@pytest.mark.parametrize(("name", "target"), [("accuracy", 1.5), ("nll", -0.1), ("probability", -1e-9), ("kl", -1.0)])
def test_a_target_out_of_range_is_refused(name: str, target: float) -> None:
    with pytest.raises(InputError, match=r"outside the range .* of " + name):
        towards(metric_named(name), target)


@pytest.mark.parametrize("direction", ["maximise", "minimise"])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_transformation_that_falls_in_its_direction_over_its_range(
    name: str, direction: str
) -> None:
    metric = METRICS[name]
    low, high = max(metric.lower, -3.0), min(metric.upper, 3.0)
    m = torch.linspace(low + 1e-3, high, 50, dtype=torch.float64)
    g = transformation(name, "swap", direction)(m)
    steps = g[1:] - g[:-1]
    assert bool((steps < 0).all() if direction == "maximise" else (steps > 0).all())
    assert name in TRANSFORM_OF_METRIC
    assert g.min() >= 0
    if name != "odds_ratio":
        assert g.max() <= 1
