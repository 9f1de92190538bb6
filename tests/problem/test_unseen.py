"""What comes from other pairs comes from those that searches see: donors, weights and side problems of all parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cotrace as ct
from cotrace.donors import Mean, Noise
from cotrace.errors import AlignmentError, InputError
from cotrace.models import wrap
from cotrace.problem import LanguageProblem, side_problem
from cotrace.prompts import Task
from cotrace.search import PGBCT, HardConcrete
from tests import tiny
from tests.families import tiny_model


def problem(task: Task, **options: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), task, sites=["head_output"], **{"direction": "maximise", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("donors", ["mean=task", "mean=position"])
def test_a_mean_is_over_the_pairs_that_searches_see(donors: str) -> None:
    task = tiny.task(24)
    split = problem(task, donors=donors, holdout=0.25, audit=0.25, search_pairs=5)
    training = set(split.training.ids)
    seen = replace(task, pairs=tuple(pair for pair in task.pairs if pair.id in training))
    reference = [pair for pair in split.encoding.pairs if pair.pair.id in training]
    assert 0 < len(reference) < 24
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    alone = problem(seen, donors=donors, holdout=0)
    assert torch.allclose(split.effects(z), alone.effects(z), atol=1e-12)
    for part in (split.heldout, split.audit):
        assert part is not None
        others = replace(task, pairs=tuple(pair for pair in task.pairs if pair.id in set(part.ids)))
        given = problem(others, donors=Mean(reference=reference, per_position="position" in donors), holdout=0)
        assert torch.allclose(part.effects(z), given.effects(z), atol=1e-12)
        itself = problem(others, donors=donors, holdout=0)
        assert not torch.allclose(part.effects(z), itself.effects(z), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_is_resampled_from_one_that_searches_do_not_see(seed: int) -> None:
    split = problem(tiny.task(30), donors=f"resample={seed}", holdout=0.3, audit=0.2, seed=seed)
    training = {pair.prompt for pair in split.encoding.pairs if pair.pair.id in set(split.training.ids)}
    assert all(pair.donor in training for pair in split.encoding.pairs)
    assert all(pair.donor != pair.prompt for pair in split.encoding.pairs)
    assert len(split.encoding.pairs) + len(split.refused) == 30


def test_held_out_pairs_that_all_lack_a_partner_are_an_error() -> None:
    """Two lengths, one for each group: nothing that the search sees is as long as what is held out."""
    pairs = tuple(
        replace(p, split_group=str(len(p.base.split()))) for p in tiny.task(12).pairs if p.base.count(" ") < 5
    )
    with pytest.raises(AlignmentError, match="set aside together"):
        problem(Task(name="two", pairs=pairs), donors="resample", holdout=0.3)


def test_a_mean_by_position_has_no_value_behind_the_prompt() -> None:
    with pytest.raises(InputError, match="mean by position has no value behind the prompt"):
        problem(tiny.task(), donors="mean=position", positions="prompt+answer", holdout=0)


def test_draws_of_noise_average_what_is_reported_too() -> None:
    built = problem(tiny.task(8), donors=Noise(std=0.5, draws=3), holdout=0)
    single = [problem(tiny.task(8), donors=source, holdout=0) for source in built.donors.each_draw()]  # type: ignore[attr-defined]
    z = torch.ones(12, dtype=torch.float64)
    for name in ("reported", "reported_levels"):
        each = torch.stack([getattr(one.training, name)(z) for one in single])
        assert torch.allclose(getattr(built.training, name)(z), each.mean(0), atol=1e-12)
        assert each.std(0).max() > 1e-6


def weighted() -> LanguageProblem:
    pairs = tuple(replace(p, weight=w) for p, w in zip(tiny.task(8).pairs, (0, 3, 0, 0, 1, 2, 0, 0.5), strict=True))
    return problem(Task(name="weighted", pairs=pairs), holdout=0)


def test_gradients_of_a_partition_have_the_whole_ones_mean() -> None:
    """With unequal weights and with a batch whose pairs all weigh nothing."""
    built, z = weighted(), torch.full((12,), 0.3, dtype=torch.float64)
    batches = [[0, 2], [1, 3], [4, 5], [6, 7]]

    def loss(effects: torch.Tensor) -> torch.Tensor:
        return effects**2

    for objective in (None, loss):
        mean = torch.stack([built.gradient(z, objective, batch) for batch in batches]).mean(0)
        assert torch.allclose(mean, built.gradient(z, objective), atol=1e-12)


@pytest.mark.parametrize("search", [PGBCT(epochs=2, batch_size=2), HardConcrete(epochs=2, batch_size=2)])
def test_pairs_without_weight_stop_no_search(search: PGBCT | HardConcrete) -> None:
    assert len(search(weighted())) > 0


@pytest.mark.parametrize("donors", ["zero", "scale=0.5", "mean=task"])
def test_a_side_problem_has_the_donors_of_the_problem_where_they_suit_any_text(donors: str) -> None:
    own = problem(tiny.task(12), donors=donors, holdout=0.25, batch_tokens=50)
    other = tiny.task(6, seed=3)
    side = side_problem(own, other, holdout=0)
    given = own.donors if donors == "mean=task" else donors
    expected = problem(other, donors=given, holdout=0)
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.allclose(side.effects(z), expected.effects(z), atol=1e-12)
    assert side.packing.batch_tokens == 50


def test_a_row_longer_than_the_table_of_positions_is_refused(recwarn: pytest.WarningsRecorder) -> None:
    task = tiny.task(6)
    long = replace(task.pairs[0], base="w1 " * 62 + "w2", counterfactual="w1 " * 62 + "w3")
    fits = replace(long, id="fits", base="w1 " * 61 + "w2", counterfactual="w1 " * 61 + "w3")  # its last is not fed
    mixed = Task(name="long", pairs=(*task.pairs[1:], fits, long))
    built = problem(mixed, holdout=0)
    assert [refusal.id for refusal in built.refused] == [long.id]
    assert "has 65 tokens, and the model takes 64" in built.refused[0].reason
    assert [len(pair.prompt) for pair in built.encoding.pairs if pair.pair.id == "fits"] == [62]
    packed, plain = built, problem(mixed, holdout=0, packing="plain")
    assert torch.allclose(packed.effects(torch.ones(12)), plain.effects(torch.ones(12)), atol=1e-10)
    assert ct.measure(tiny.model("gpt2"), mixed).refused
    llama = LanguageProblem(tiny.model("llama"), mixed, sites=["head_output"], holdout=0, direction="maximise")
    assert not llama.refused, "positions that are computed have no end"


@pytest.mark.parametrize(("family", "known"), [("gptj", True), ("codegen", True), ("llama", False), ("gemma2", False)])
def test_a_table_of_positions_that_is_kept_ends_as_a_learned_one_does(family: str, known: bool) -> None:
    module = tiny_model(family)
    most = wrap(module, name=family).most_tokens
    assert most == (module.config.max_position_embeddings if known else None)
    if most is not None:
        module(torch.ones(1, most, dtype=torch.long))
        with pytest.raises((RuntimeError, IndexError)):
            module(torch.ones(1, most + 1, dtype=torch.long))


def test_another_seed_resamples_other_prompts() -> None:
    drawn = [
        tuple(p.donor for p in problem(tiny.task(30), donors=f"resample={seed}").encoding.pairs) for seed in (1, 2)
    ]
    assert drawn[0] != drawn[1]


def test_a_mean_is_over_prompts_also_where_answers_are_patched() -> None:
    """The reference are the prompts' tokens: what stands at answers is not the prompt's."""
    both = [problem(tiny.task(8), donors="mean=task", holdout=0, positions=p) for p in ("prompt", "prompt+answer")]
    one, other = (p.training.scorer.donors.values for p in both)  # type: ignore[attr-defined]
    assert all(torch.allclose(one[place], other[place], atol=1e-12) for place in one)


def test_faithfulness_of_keeping_all_is_one_whatever_pairs_weigh() -> None:
    pairs = tuple(replace(p, weight=w) for p, w in zip(tiny.task(8).pairs, range(1, 9), strict=True))
    built = problem(Task(name="weighted", pairs=pairs), holdout=0, mode="keep")
    assert built.value(torch.zeros(12, dtype=torch.float64)).item() == pytest.approx(1, abs=1e-12)
    assert built.value(torch.ones(12, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
