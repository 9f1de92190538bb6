"""Measurements against the model run by hand, one prompt at a time."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.evaluation.measured import Measurement
from cotrace.prompts import Task
from tests import tiny


def task() -> Task:
    plain = tiny.task(12, answer_tokens=(1, 3))
    pairs = [
        replace(pair, group="ab"[i % 2], favourable=i // 2 % 2, weight=1.0 + i % 2, meta={"third": i % 3})
        for i, pair in enumerate(plain.pairs)
    ]
    return replace(plain, pairs=tuple(pairs))


def by_hand(prompt: str, answer: str) -> float:
    model = tiny.model("gpt2")
    tokenizer = model.require_tokenizer()
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_p = torch.log_softmax(model.module(ids).logits[0], -1)
    return sum(log_p[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1]))


def scores(counterfactual: bool) -> np.ndarray:
    return np.array(
        [
            [by_hand((p.counterfactual or "") if counterfactual else p.base, answer) for answer in p.answers]
            for p in task().pairs
        ]
    )


def test_base_and_donor_levels_and_flips_equal_those_by_hand() -> None:
    found = ct.measure(tiny.model("gpt2"), task(), by=["group", "third"])
    base, donor = scores(False), scores(True)
    target = np.array([pair.target for pair in task().pairs])
    weight = np.array([pair.weight for pair in task().pairs])
    sign = 1 - 2 * target  # log-odds: the other answer less the target
    rows = {row.value: row for row in found.rows if row.field != "third"}
    for name, members in {"all pairs": np.arange(12), "a": np.arange(0, 12, 2), "b": np.arange(1, 12, 2)}.items():
        row = rows[name]
        for level, table in ((row.base, base), (row.donor, donor)):
            odds = ((table[:, 1] - table[:, 0]) * sign)[members]
            assert level == pytest.approx(np.average(odds, weights=weight[members]), abs=1e-9)
        assert row.flips == pytest.approx((base.argmax(1) != donor.argmax(1))[members].mean())
    assert [row.pairs for row in found.rows if row.field == "third"] == [4, 4, 4]
    low, high = found.overall.base_interval or (0, 0)
    assert low < found.overall.base < high  # type: ignore[operator]
    assert rows["a"].base_interval is None  # 6 pairs are too few


def test_group_metrics_come_with_selection_rates_their_ratio_and_the_soft_form() -> None:
    found = ct.measure(tiny.model("gpt2"), task(), metric="demographic_parity_gap")
    chosen, weight = scores(False).argmax(1), np.array([pair.weight for pair in task().pairs])
    picks = chosen == np.array([pair.favourable for pair in task().pairs])
    rates = [np.average(picks[g::2], weights=weight[g::2]) for g in range(2)]
    assert found.overall.base == pytest.approx(abs(rates[0] - rates[1]))
    assert [found["a"].selection_rate, found["b"].selection_rate] == pytest.approx(rates)
    assert found["a"].base is None
    assert found.selection_rate_ratio is not None
    assert found.selection_rate_ratio[0] == pytest.approx(min(rates) / max(rates))
    low, high = found.overall.base_interval or (1, 0)
    assert 0 <= low <= high <= 1
    assert "Selection-rate ratio: base" in str(found)
    assert "Soft form" in str(found)


def test_a_group_with_few_positives_has_an_interval_or_none_but_never_an_error() -> None:
    """Drawn at will, many resamples hold no positive of group b: they compare nothing, or a group with itself."""
    plain = tiny.task(24, answer_tokens=(1, 1))

    def with_positives(count: int) -> Task:
        groups = ["b" if i < 4 else "a" for i in range(24)]
        labels = [int(i >= count if g == "b" else i % 2) for i, g in enumerate(groups)]
        pairs = [
            replace(p, group=g, favourable=0, label=label)
            for p, g, label in zip(plain.pairs, groups, labels, strict=True)
        ]
        return replace(plain, pairs=tuple(pairs), metric="equal_opportunity_gap")

    several = ct.measure(tiny.model("gpt2"), with_positives(2), by="group").overall
    low, high = several.base_interval or (1.0, 0.0)
    assert 0 <= low <= several.base <= high <= 1  # type: ignore[operator]
    assert several.donor_interval is not None
    one = ct.measure(tiny.model("gpt2"), with_positives(1), by="group").overall
    assert one.base is not None
    assert one.base_interval is None


def test_a_measurement_goes_through_json_and_into_a_frame() -> None:
    found = ct.measure(tiny.model("gpt2"), task())
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    frame = found.to_frame()
    assert list(frame["value"]) == ["all pairs", "a", "b"]
    assert frame["base"][0] == found.overall.base


def test_without_counterfactuals_or_with_one_answer_there_is_nothing_to_compare() -> None:
    alone = [replace(pair, counterfactual=None) for pair in task().pairs]
    found = ct.measure(tiny.model("gpt2"), replace(task(), pairs=tuple(alone)))
    assert found.overall.donor is None
    assert found.overall.flips is None
    assert "donor" not in found.table().columns
    single = [replace(pair, answers=pair.answers[:1], target=0, favourable=0) for pair in task().pairs]
    assert ct.measure(tiny.model("gpt2"), replace(task(), pairs=tuple(single))).overall.flips is None


def test_kl_of_the_donor_is_that_of_the_models_own_distributions() -> None:
    found = ct.measure(tiny.model("gpt2"), task(), metric="kl")
    model = tiny.model("gpt2")
    total = weight = 0.0
    for pair in task().pairs:
        log_p = []
        for prompt in (pair.base, pair.counterfactual):
            with torch.no_grad():
                ids = model.require_tokenizer()(prompt, return_tensors="pt")["input_ids"]
                log_p.append(torch.log_softmax(model.module(ids).logits[0, -1], -1))
        total += pair.weight * (log_p[0].exp() * (log_p[0] - log_p[1])).sum().item()
        weight += pair.weight
    assert found.overall.donor == pytest.approx(total / weight, rel=1e-9)
    assert found.overall.base == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "colour"}, "unknown field 'colour'"),
        ({"metric": "equal_opportunity_gap"}, "metric equal_opportunity_gap: 12 of 12 pairs have no 'label'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"confidence": 95}, "confidence is 95"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ct.measure(tiny.model("gpt2"), task(), **options)  # type: ignore[arg-type]
