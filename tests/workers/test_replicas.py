"""The batches of one plan, run by replicas: every number is the one that a single process computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace.batches import EncodedPair, Encoding, answer_layouts
from cotrace.donors import Counterfactual, Noise, RecordedDonors, Setting
from cotrace.errors import InputError
from cotrace.problem.scorer import executing
from cotrace.workers import distributed
from cotrace.workers.worker import Kept
from tests import tiny
from tests.dictionaries.toy import dictionary
from tests.problems import ClosedForm
from tests.workers.local import LocalWorkers

BATCH = 40


def problem(family: str = "gpt2", count: int = 12, **options: Any) -> ct.LanguageProblem:
    given = {"sites": ["head_output"], "batch_tokens": BATCH, "direction": "maximise", "seed": 1} | options
    task = tiny.task(count)
    kinds = [{"group": "ab"[i % 2], "favourable": 0, "label": i % 3 % 2} for i in range(count)]
    pairs = tuple(replace(pair, **kind) for pair, kind in zip(task.pairs, kinds, strict=True))
    return ct.LanguageProblem(tiny.model(family, torch.float32), replace(task, pairs=pairs), **given)


def masks(n: int) -> torch.Tensor:
    """Soft ones, binary ones that share most components (so that runs start above the lowest layer), and all."""
    draw = torch.Generator().manual_seed(3)
    soft, common = torch.rand(3, n, generator=draw), (torch.rand(n, generator=draw) > 0.5).float()
    near = common.repeat(4, 1)
    near[torch.arange(4), torch.randint(n, (4,), generator=draw)] = 1
    return torch.cat([soft, near, torch.ones(1, n)])


CASES: dict[str, dict[str, Any]] = {
    "heads": {},
    "neurons and outputs": {"sites": ["mlp_neuron", "attention_output"]},
    "patterns": {"sites": ["attention_pattern"]},
    "faithfulness": {"mode": "keep"},
    "noise on answers too": {"donors": "noise=0.5", "positions": "prompt+answer"},
    "several draws": {"donors": Noise(multiple=3.0, draws=2)},
    "a mean": {"donors": "mean=task"},
    "a mean by position": {"donors": "mean=position"},
    "resampled": {"donors": "resample"},
    "a factor": {"donors": "scale=0.3"},
    "logits": {"metric": "kl"},
    "logits near a level": {"metric": "kl", "direction": "target=0.01"},
    "a whole set": {"metric": "stereotype_gap", "direction": "minimise"},
    "plain rows": {"packing": "plain"},
}


QUICK = (
    "heads",
    "patterns",
    "faithfulness",
    "noise on answers too",
    "a mean by position",
    "resampled",
    "logits",
    "a whole set",
)


@pytest.mark.parametrize("case", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in CASES])
def test_every_number_is_that_of_one_process(case: str) -> None:
    alone = problem(**CASES[case])
    assert len(alone.training.scorer.all_layouts) > 1, "there is something to hand out"
    workers = LocalWorkers(3, seed=len(case))
    many = distributed(alone, workers)
    z = masks(len(alone.space))
    for one, other in ((alone, many), (alone.heldout, many.heldout)):
        assert one is not None
        assert other is not None
        assert torch.equal(one.value(z), other.value(z))
        assert torch.equal(one.gradient(z[0]), other.gradient(z[0]))
        if one.metric not in ("stereotype_gap", "kl to 0.01"):
            assert torch.equal(one.effects(z, [3, 0, 2]), other.effects(z, [3, 0, 2]))
            sliding = lambda effects: 1 / (2 + effects) ** 2  # noqa: E731
            assert torch.equal(one.gradient(z[1], sliding, [3, 1]), other.gradient(z[1], sliding, [3, 1]))
    assert all(replica._made.nbytes for replica in workers.replicas) or alone.training.scorer.donors.nbytes < 5000
    assert {unit.method for unit in workers.asked} == {"scores", "slope"}


FEATURES: dict[str, tuple[Any, ...]] = {
    "a residual and a transcoder": (
        dictionary("blocks.0.hook_resid_post", 0),
        dictionary("blocks.1.mlp.hook_in", 7, hook_out="blocks.1.hook_mlp_out"),
    ),
    "two of a layer": (dictionary("blocks.1.hook_mlp_out", 4, k=4), dictionary("blocks.1.hook_attn_out", 3)),
}


@pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary")
@pytest.mark.parametrize("memory", [None, pytest.param("20KB", marks=pytest.mark.slow)])
@pytest.mark.parametrize("donors", ["counterfactual", "mean=position", "zero"])
@pytest.mark.parametrize("held", FEATURES)
def test_features_are_those_of_one_process(held: str, donors: str, memory: str | None) -> None:
    options = {"sites": ["feature", "error", "head_output"], "dictionaries": FEATURES[held]}
    alone, workers = problem(donors=donors, memory=memory, **options), LocalWorkers(3)
    assert len(alone.training.scorer.all_layouts) > 1, "there is something to hand out"
    many, z = distributed(alone, workers), masks(len(alone.space))
    assert torch.equal(alone.effects(z), many.effects(z))
    assert torch.equal(alone.gradient(z[0]), many.gradient(z[0]))
    with executing(workers):
        made = problem(donors=donors, memory=memory, **options)
    assert made.space.components == alone.space.components
    assert torch.equal(alone.effects(z), made.effects(z))
    assert {type(asked.batch.ref.given).__name__ for asked in workers.asked} == {"GivenFeatures"}


@pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary")
def test_models_with_other_dictionaries_are_told_apart() -> None:
    workers = LocalWorkers(2)
    for held in FEATURES.values():
        alone = problem(sites=["feature"], dictionaries=held)
        z = masks(len(alone.space))
        assert torch.equal(alone.effects(z), distributed(alone, workers).effects(z))
    plain = problem()
    z = masks(len(plain.space))
    assert torch.equal(plain.effects(z), distributed(plain, workers).effects(z))
    assert all(len(replica._models) <= 1 for replica in workers.replicas), "the weights are there once"


@dataclass(frozen=True)
class AboutTheMean:
    """A source of a user's own: each pair's donor values, less half the mean over all pairs that it is given."""

    name, paired, patterns = "about_the_mean", True, True

    def settled(self, encoding: Encoding, training: Collection[str]) -> tuple[Any, Encoding]:
        return self, encoding

    def prefix(self, pair: EncodedPair) -> int:
        return 0

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        found = setting.record(pairs)
        return replace(found, values={place: value - value.mean(0) / 2 for place, value in found.values.items()})


class HalfCounterfactual(Counterfactual):
    """The same, derived from a class that workers know how to run."""

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        return AboutTheMean().donors(setting, pairs)


@pytest.mark.parametrize("positions", ["prompt", "prompt+answer"])
@pytest.mark.parametrize("memory", [None, "20KB"])
@pytest.mark.parametrize("source", [AboutTheMean(), HalfCounterfactual()])
def test_donors_of_a_users_own_source_are_those_of_one_process(source: Any, memory: str | None, positions: str) -> None:
    alone, workers = problem(donors=source, memory=memory, positions=positions), LocalWorkers(3)
    many, z = distributed(alone, workers), masks(len(alone.space))
    assert torch.equal(alone.effects(z), many.effects(z))
    assert torch.equal(alone.gradient(z[0]), many.gradient(z[0]))
    assert not torch.equal(alone.effects(z), problem(donors="counterfactual", positions=positions).effects(z))
    with executing(workers):
        made = problem(donors=source, memory=memory, positions=positions)
    assert torch.equal(alone.effects(z), made.effects(z))
    assert alone.full_swap == made.full_swap


def test_patterns_of_a_users_own_source_are_those_of_one_process() -> None:
    class Own(Counterfactual):
        pass

    alone, workers = problem(donors=Own(), sites=["attention_pattern"]), LocalWorkers(3)
    many, z = distributed(alone, workers), masks(len(alone.space))
    assert torch.equal(alone.effects(z), many.effects(z))
    assert torch.equal(alone.effects(z), problem(donors="counterfactual", sites=["attention_pattern"]).effects(z))


def test_donor_values_of_another_kind_are_refused_before_anything_is_handed_out() -> None:
    class Values:
        nbytes = 0

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def patches(self, layout: Any, spots: Any) -> Any:
            return self.inner.patches(layout, spots)

    class Wrapped(Counterfactual):
        name = "wrapped"

        def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> Any:
            return Values(setting.record(pairs))

    alone, workers = problem(donors=Wrapped()), LocalWorkers(2)
    alone.effects(masks(len(alone.space)))
    with pytest.raises(InputError, match=r"donors='wrapped' gives Values, which cannot be handed out to workers"):
        distributed(alone, workers)
    assert not workers.asked


def test_few_batches_of_many_masks_are_cut_by_forward_passes() -> None:
    alone = problem(count=6, holdout=0.0)
    workers = LocalWorkers(4)
    many = distributed(alone, workers)
    z = masks(len(alone.space)).repeat(6, 1)
    assert torch.equal(alone.effects(z), many.effects(z))
    layouts = len(alone.training.scorer.all_layouts)
    assert len(workers.asked) >= min(4 * 4, 2 * layouts), "more parts than batches"
    seen = [unit.arguments[3] for unit in workers.asked if unit.batch is workers.asked[0].batch]
    passes = len(alone.training.scorer.passes_of(z, alone.training.scorer.all_layouts[0]).each)
    assert len({i for part in seen for i in part}) in (passes, sum(map(len, seen)))


def test_a_problem_made_for_workers_records_no_donors_of_its_own() -> None:
    alone, workers = problem(), LocalWorkers(2)
    with executing(workers):
        many = problem()
    assert many.training.scorer.donors.nbytes == 0 < alone.training.scorer.donors.nbytes
    assert torch.equal(alone.effects(masks(len(alone.space))), many.effects(masks(len(alone.space))))
    assert many.full_swap == alone.full_swap
    assert many.training.scorer.donors.nbytes == 0
    layout = many.training.scorer.all_layouts[0]
    many.training.scorer.batch_scores(torch.ones(1, len(many.space)), layout)  # here after all: they are made now
    assert many.training.scorer.donors.nbytes == alone.training.scorer.donors.nbytes


def test_what_is_sent_of_a_batch_names_none_of_the_other_pairs() -> None:
    alone, workers = problem(), LocalWorkers(2)
    many = distributed(alone, workers)
    many.effects(torch.ones(len(alone.space)))
    batches = {unit.batch.key: unit.batch.ref for unit in workers.asked}
    ids = [pair.pair.id for batch in batches.values() for pair in batch.pairs]
    assert sorted(ids) == sorted(alone.training.ids)
    for batch in batches.values():
        (again,) = answer_layouts(batch.pairs, range(len(batch.pairs)), alone.packing)
        assert again.source.max() == batch.layout.source.max(), "donor tokens are counted among the batch's own"


def test_sums_and_constraints_have_their_problems_distributed() -> None:
    first, second = problem(), problem(donors="zero")
    for whole in (ct.WeightedSum([(1, first), (2, second)]), ct.Constrained(first, [ct.Constraint(second, 0.5)])):
        workers = LocalWorkers(2)
        many = distributed(whole, workers)
        z = masks(len(first.space))
        assert torch.equal(whole.value(z), many.value(z))
        assert torch.equal(whole.gradient(z[0]), many.gradient(z[0]))
        assert torch.equal(whole.side_values(z), many.side_values(z))
        assert workers.asked


@pytest.mark.filterwarnings("ignore:no intervals")
def test_searches_and_evaluations_are_the_same_on_workers() -> None:
    alone, again = problem(), problem()
    many = distributed(again, LocalWorkers(3))
    for search in (ct.search.named("pgbct", l1=1e-4, l2=1e-5, epochs=2), ct.search.Pursuit(max_size=2)):
        one, other = search(alone), search(many)
        assert one.to_dict() | {"elapsed_s": 0} == other.to_dict() | {"elapsed_s": 0}
    assert ct.evaluate(alone, one).to_dict() == ct.evaluate(many, other).to_dict()


def test_workers_of_none_leave_the_problem_and_others_are_refused() -> None:
    alone = problem()
    assert distributed(alone, 0) is alone
    with pytest.raises(InputError, match=r"a ClosedForm has no batches to hand out"):
        distributed(ClosedForm(lambda z: z, 3), 2)  # type: ignore[arg-type]


def test_what_is_kept_is_bounded_and_the_latest_used_stays() -> None:
    kept, made = Kept(), list[str]()

    def make(key: str, size: int) -> None:
        kept.get(key, 100, lambda: (made.append(key), size))

    for key in ("a", "b", "a", "c"):
        make(key, 50)
    assert kept.nbytes == 100
    assert made == ["a", "b", "c"]
    make("a", 50)
    assert made == ["a", "b", "c"], "it was used after b, which went"
    make("huge", 500)
    assert kept.nbytes == 500, "one that is too large is held alone"


def test_memory_that_runs_out_on_a_worker_cuts_batches_smaller_there_and_from_then_on() -> None:
    alone, workers = problem(), LocalWorkers(2)
    many, z = distributed(alone, workers), masks(len(alone.space))
    expected, module = many.effects(z), alone.model.module

    def refuse(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].shape[0] * given[0].shape[1] > BATCH // 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = module.get_input_embeddings().register_forward_pre_hook(refuse)
    try:
        found = many.effects(z)
    finally:
        handle.remove()
    assert torch.allclose(found, expected, atol=1e-5)
    assert many.batch_plan["events"]
    assert many.training.scorer.batching.tokens < BATCH


def test_workers_of_none_are_the_problem_itself() -> None:
    alone = problem()
    assert ct.distributed(alone, 0) is alone
    with pytest.raises(InputError, match="worker"):
        ct.distributed(alone, wokers=2)  # type: ignore[call-arg]
