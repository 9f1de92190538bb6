"""Group metrics against fairlearn and scikit-learn on the same predictions, and against plain loops."""

import numpy as np
import pytest
import torch
from fairlearn import metrics as fair
from sklearn.metrics import accuracy_score

from cotrace.errors import InputError
from cotrace.metrics import GROUPS, Answers, metric_named, selection_rate_ratio
from cotrace.prompts import PromptPair

GROUP_NAMES = ("a", "b", "c")


def draw(seed: int, size: int = 60) -> tuple[torch.Tensor, list[PromptPair]]:
    """Random scores of two answers, the favourable one at a random place, random labels, groups and weights."""
    generator = np.random.default_rng(seed)
    pairs = [
        PromptPair(
            id=str(i),
            base="x",
            answers=(" yes", " no"),
            target=int(generator.integers(2)),
            label=int(generator.integers(2)),
            favourable=int(generator.integers(2)),
            group=GROUP_NAMES[i % 3],
            weight=float(generator.integers(1, 4)),
        )
        for i in range(size)
    ]
    return torch.from_numpy(generator.normal(size=(size, 2))), pairs


def predictions(scores: torch.Tensor, pairs: list[PromptPair]) -> dict[str, list[object]]:
    chosen = scores.numpy().argmax(1)
    return {
        "y_true": [int(pair.label == pair.favourable) for pair in pairs],
        "y_pred": [int(c == pair.favourable) for c, pair in zip(chosen, pairs, strict=True)],
        "sensitive_features": [pair.group for pair in pairs],
        "sample_weight": [pair.weight for pair in pairs],
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("demographic_parity_gap", fair.demographic_parity_difference),
        ("equal_opportunity_gap", fair.equal_opportunity_difference),
        ("equalized_odds_gap", fair.equalized_odds_difference),
    ],
)
def test_hard_values_equal_fairlearns(name: str, theirs: object, seed: int) -> None:
    scores, pairs = draw(seed)
    answers = Answers.of(pairs, torch.float64)
    ours = GROUPS[name].reported(torch.stack([scores, -scores]), scores, answers)
    for value, table in zip(ours.tolist(), (scores, -scores), strict=True):
        assert value == pytest.approx(theirs(**predictions(table, pairs)), abs=1e-12)  # type: ignore[operator]


def test_selection_rate_ratio_equals_fairlearns_and_accuracy_scikit_learns() -> None:
    scores, pairs = draw(7)
    answers = Answers.of(pairs, torch.float64)
    theirs = fair.demographic_parity_ratio(**predictions(scores, pairs))
    assert selection_rate_ratio(scores, answers).item() == pytest.approx(theirs, abs=1e-12)
    labels, weight = [pair.label for pair in pairs], [pair.weight for pair in pairs]
    expected = accuracy_score(labels, scores.numpy().argmax(1), sample_weight=weight)
    accuracy = metric_named("accuracy")
    assert accuracy.reported(scores, scores, answers).item() == pytest.approx(expected, abs=1e-12)


def test_soft_rates_are_mean_probabilities_and_become_hard_as_scores_grow() -> None:
    scores, pairs = draw(3)
    answers = Answers.of(pairs, torch.float64)
    shares = torch.softmax(scores, -1).numpy()
    rates = []
    for name in GROUP_NAMES:
        own = [(pair.weight, shares[i, pair.favourable]) for i, pair in enumerate(pairs) if pair.group == name]
        rates.append(np.average([share for _, share in own], weights=[weight for weight, _ in own]))
    soft = GROUPS["demographic_parity_gap"].soft_level(scores, scores, answers)
    assert soft.item() == pytest.approx(max(rates) - min(rates), abs=1e-12)
    for metric in GROUPS.values():
        sharp = metric.soft_level(1e4 * scores, scores, answers).item()
        assert sharp == pytest.approx(metric.reported(scores, scores, answers).item(), abs=1e-9)


def test_stereotype_gap_is_the_difference_of_an_answers_rate_for_opposite_targets() -> None:
    scores, _ = draw(5, 40)
    pairs = [
        PromptPair(id=str(i), base="x", answers=(" she", " he"), target=i % 2, group="fm"[i % 2]) for i in range(40)
    ]
    she = scores.numpy().argmax(1) == 0
    gap = GROUPS["stereotype_gap"].reported(scores, scores, Answers.of(pairs, torch.float64))
    assert gap.item() == pytest.approx(she[::2].mean() - she[1::2].mean(), abs=1e-12)
    always = torch.tensor([1.0, 0.0]).expand(40, 2)
    assert GROUPS["stereotype_gap"].reported(always, always, Answers.of(pairs, torch.float64)).item() == 0


def test_values_are_changes_against_the_base_run() -> None:
    scores, pairs = draw(9)
    answers = Answers.of(pairs, torch.float64)
    for metric in GROUPS.values():
        moved = metric.value(torch.stack([scores, 2 * scores]), scores, answers)
        levels = [metric.soft_level(table, scores, answers).item() for table in (scores, 2 * scores)]
        assert moved.tolist() == pytest.approx([0.0, levels[1] - levels[0]], abs=1e-15)


def pair(i: int, **fields: object) -> PromptPair:
    return PromptPair(id=str(i), base="x", answers=(" a", " b"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([pair(i) for i in range(4)], "4 of 4 pairs have no 'group'"),
        ([pair(i, group="a") for i in range(4)], "all 4 pairs are of 'a'"),
        ([pair(i, group="ab"[i == 0], favourable=0) for i in range(4)], "group 'b' has one pair"),
        ([pair(i, group="ab"[i % 2]) for i in range(4)], "4 of 4 pairs have no 'favourable'"),
        ([pair(i, group="ab"[i % 2], favourable=0) for i in range(4)], "4 of 4 pairs have no 'label'"),
        (
            [pair(i, group="ab"[i % 2], favourable=0, label=i % 2) for i in range(4)],
            "group 'b' has no pair whose label is favourable",
        ),
        (
            [pair(i, group="ab"[i % 2], favourable=0, label=0) for i in range(4)],
            "group 'a' has no pair whose label is not favourable",
        ),
    ],
)
def test_pairs_from_which_no_gap_can_be_told_are_refused(pairs: list[PromptPair], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GROUPS["equalized_odds_gap"].check(Answers.of(pairs, torch.float64))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("demographic_parity_gap", fair.demographic_parity_difference),
        ("equal_opportunity_gap", fair.equal_opportunity_difference),
        ("equalized_odds_gap", fair.equalized_odds_difference),
    ],
)
def test_gaps_of_many_resamples_at_once_equal_fairlearns_of_each(name: str, theirs: object) -> None:
    """A pair drawn twice weighs twice, one that is not drawn is not there; of two masks at once."""
    scores, pairs = draw(2)
    answers, counts = Answers.of(pairs, torch.float64), np.random.default_rng(0).integers(0, 4, (5, 60))
    ours = GROUPS[name].reported(torch.stack([scores, -scores]), scores, answers.drawn(counts))
    assert ours.shape == (2, 5)
    for row, table in zip(ours, (scores, -scores), strict=True):
        told = predictions(table, pairs)
        for value, count in zip(row.tolist(), counts, strict=True):
            some = np.flatnonzero(count)
            drawn = {field: [column[i] for i in some] for field, column in told.items()}
            drawn["sample_weight"] = [w * c for w, c in zip(drawn["sample_weight"], count[some], strict=True)]  # type: ignore[operator]
            assert value == pytest.approx(theirs(**drawn), abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("name", GROUPS)
def test_a_resample_without_a_group_or_its_positives_has_no_gap(name: str) -> None:
    """Not 0, which a comparison of the groups that are left would give, and no error."""
    scores, pairs = draw(2)
    answers = Answers.of(pairs, torch.float64)
    without = np.array([[pair.group != "b" for pair in pairs], [True] * 60], float)
    found = GROUPS[name].value(scores, -scores, answers.drawn(without))
    assert found.isnan().tolist() == [True, False]
    positive = np.array([[pair.group != "b" or pair.label != pair.favourable for pair in pairs]], float)
    looks_at_labels = name in ("equal_opportunity_gap", "equalized_odds_gap")
    assert GROUPS[name].reported(scores, scores, answers.drawn(positive)).isnan().item() is looks_at_labels


def test_strata_are_what_a_gap_compares() -> None:
    _, pairs = draw(1)
    answers = Answers.of(pairs, torch.float64)
    right = [pair.label == pair.favourable for pair in pairs]
    for name, kinds in {
        "demographic_parity_gap": [pair.group for pair in pairs],
        "stereotype_gap": [pair.group for pair in pairs],
        "equal_opportunity_gap": [(pair.group, r) for pair, r in zip(pairs, right, strict=True)],
        "equalized_odds_gap": [(pair.group, r) for pair, r in zip(pairs, right, strict=True)],
    }.items():
        found = GROUPS[name].strata(answers).tolist()
        assert len(set(zip(found, kinds, strict=True))) == len(set(found)) == len(set(kinds))
