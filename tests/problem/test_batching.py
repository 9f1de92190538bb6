"""Memory that runs out: batches are halved, nothing is lost, and a replay cuts them at the same places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.problem.probe import Probe
from cotrace.search import Greedy, Pursuit
from tests import tiny


@contextmanager
def allocator(
    model: LanguageModel, most: int, *, gradient: int | None = None, kind: str = "cuda"
) -> Iterator[list[int]]:
    """No more than so many tokens fit in a pass (fewer in one with gradient). Gives the passes that were let by."""
    passes: list[int] = []

    def refuse(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        tokens = output.shape[0] * output.shape[1]
        limit = gradient if gradient is not None and torch.is_grad_enabled() else most
        if tokens > limit:
            words = {"cuda": "CUDA out of memory.", "cpu": "DefaultCPUAllocator: can't allocate memory: tried 8 bytes"}
            raise {"cuda": torch.OutOfMemoryError, "cpu": RuntimeError, "python": MemoryError}[kind](
                words.get(kind, "")
            )
        passes.append(tokens)

    handle = model.module.get_input_embeddings().register_forward_hook(refuse)
    try:
        yield passes
    finally:
        handle.remove()


def problem(**more: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), tiny.task(8), sites=["head_output"], holdout=0.25, **more)  # type: ignore[arg-type]


def masks() -> torch.Tensor:
    return torch.rand(7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["cuda", "cpu", "python"])
def test_halved_batches_give_the_same(kind: str) -> None:
    whole = problem()
    expected = whole.effects(masks()), whole.gradient(masks()[0])
    tight = problem()
    with allocator(tight.model, 30, kind=kind) as passes:
        found = tight.effects(masks()), tight.gradient(masks()[0])
    assert max(passes) <= 30
    assert tight.batch_plan["events"]
    assert tight.packing.batch_tokens <= 30
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_what_fits_is_not_run_again() -> None:
    tight = problem(batch_tokens=24)
    layouts = tight.training.scorer.all_layouts
    assert len(layouts) > 1
    largest = max(layout.cells for layout in layouts)
    z = masks()[0]
    with allocator(tight.model, largest) as passes:
        tight.effects(z)
    untouched = len(passes)
    assert not tight.batch_plan["events"]
    fresh = problem(batch_tokens=24)
    calls = 0

    def once(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == untouched:  # the last batch of all
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = fresh.model.module.get_input_embeddings().register_forward_hook(once)
    found = fresh.effects(z)
    handle.remove()
    assert torch.allclose(found, tight.effects(z), atol=1e-10)
    assert calls <= untouched + 3  # the batches before it were kept


def test_a_replay_cuts_at_the_same_places_without_running_out() -> None:
    def run(built: LanguageProblem) -> list[torch.Tensor]:
        assert built.heldout is not None
        z = masks()
        return [
            built.gradient(z[0]),
            built.effects(z),
            built.gradient(z[1]),
            built.heldout.effects(z),
            built.effects(z[2]),
        ]

    first = problem()
    with allocator(first.model, 20, gradient=34):
        expected = run(first)
    plan = first.batch_plan
    assert len(plan["events"]) >= 2
    second = problem(batch_plan=plan)
    found = run(second)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert second.batch_plan == plan


def test_a_resumed_run_has_the_changes_behind_it() -> None:
    first = problem()
    with allocator(first.model, 40):
        first.effects(masks())
    first.effects(masks()[:2])
    resumed = problem(batch_plan=first.batch_plan)
    resumed.cost.charge(first.cost.forward_equivalents)
    assert torch.equal(resumed.gradient(masks()[3]), first.gradient(masks()[3]))
    assert resumed.packing.batch_tokens == first.packing.batch_tokens


@pytest.mark.parametrize("search", [Greedy(max_size=4), Pursuit(max_size=4)])
def test_searches_replay_to_the_same_frontier(search: Greedy | Pursuit) -> None:
    first = problem()
    with allocator(first.model, 50):
        expected = search(first)
    assert first.batch_plan["events"]
    found = search(problem(batch_plan=first.batch_plan))
    assert [(s.components, s.effect, s.effect_heldout) for s in found] == [
        (s.components, s.effect, s.effect_heldout) for s in expected
    ]


def test_one_pair_alone_recomputes_its_activations_before_it_gives_up() -> None:
    tight = problem()
    z = masks()[0]
    expected = tight.gradient(z)

    def refuse(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if torch.is_grad_enabled() and not vars(tight.model.layers[0].module).get("forward"):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = tight.model.module.get_input_embeddings().register_forward_hook(refuse)
    found = tight.gradient(z)
    handle.remove()
    assert tight.batch_plan["events"][-1]["checkpointing"]
    assert torch.allclose(found, expected, atol=1e-10)


def test_a_pass_of_one_pair_that_does_not_fit_says_what_would() -> None:
    tight = problem(checkpointing="off")
    with allocator(tight.model, 2), pytest.raises(InputError, match=r"one pair alone .* smaller dtype .* more memory"):
        tight.effects(masks())
    with allocator(tiny.model("gpt2"), 2), pytest.raises(InputError, match="one pair alone"):
        problem()


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"batch_tokens": "many", "checkpointing": "auto", "events": []},
        {"batch_tokens": 0, "checkpointing": "auto", "events": []},
        {"batch_tokens": 9, "checkpointing": "never", "events": []},
        {"batch_tokens": 9, "checkpointing": "auto", "events": [{"tokens": 3}]},
    ],
)
def test_a_damaged_batch_plan_is_refused(plan: dict[str, object]) -> None:
    with pytest.raises(InputError, match="the batch plan"):
        problem(batch_plan=plan)


def test_other_errors_are_not_taken_for_it() -> None:
    broken = problem()

    def fail(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        raise RuntimeError("shapes do not fit")

    handle = broken.model.module.get_input_embeddings().register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        broken.effects(masks())
    handle.remove()
    assert not broken.batch_plan["events"]


def test_a_forecast_takes_nothing_from_the_plan() -> None:
    """What is timed before a replay must not use up the changes that the replay is to repeat."""
    first = problem()
    with allocator(first.model, 50):
        expected = Greedy(max_size=2)(first)
    plan = first.batch_plan
    assert plan["events"]
    second = problem(batch_plan=plan)
    assert Probe(second.scorers[0]).rates([torch.eye(12, dtype=torch.float64)], 60) is not None
    found = Greedy(max_size=2)(second)
    assert second.batch_plan == plan
    assert [s.effect for s in found] == [s.effect for s in expected]


def test_a_change_between_two_passes_of_one_evaluation_comes_there_again() -> None:
    """A cost alone does not say where within an evaluation: the passes since the last charge count too."""

    def passes(built: LanguageProblem, failing: int | None = None) -> tuple[torch.Tensor, list[int]]:
        sizes: list[int] = []

        def watch(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal failing
            if len(sizes) == failing:
                failing = None
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(output.shape[0] * output.shape[1])

        handle = built.model.module.get_input_embeddings().register_forward_hook(watch)
        found = built.gradient(masks()[0])
        handle.remove()
        return found, sizes

    first = problem(batch_tokens=12)
    expected, sizes = passes(first, failing=2)
    (event,) = first.batch_plan["events"]
    assert event["passes"] == 2
    found, again = passes(problem(batch_tokens=12, batch_plan=first.batch_plan))
    assert again == sizes
    assert torch.equal(found, expected)
    assert passes(problem(batch_tokens=12))[1] != sizes, "else nothing was halved"
