"""Memory that runs out: batches are halved, nothing is lost, and a replay cuts them at the same places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import nn

from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
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


def test_other_errors_are_not_taken_for_it() -> None:
    broken = problem()

    def fail(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        raise RuntimeError("shapes do not fit")

    handle = broken.model.module.get_input_embeddings().register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        broken.effects(masks())
    handle.remove()
    assert not broken.batch_plan["events"]


@pytest.mark.parametrize("search", [Greedy(max_size=4), Pursuit(max_size=4)])
def test_a_search_that_runs_out_of_memory_goes_on_with_halved_batches(search: Greedy | Pursuit) -> None:
    """As the same search with room enough, within 1e-5; every halving is noted."""
    tight = problem()
    with allocator(tight.model, 50):
        found = search(tight)
    tokens = [event["batch_tokens"] for event in tight.batch_plan["events"]]
    assert tokens
    assert all(after <= before / 2 for before, after in pairwise([tight.batch_plan["batch_tokens"], *tokens]))
    for one, other in zip(search(problem()), found, strict=True):
        assert one.components == other.components
        assert (one.effect, one.effect_heldout) == pytest.approx((other.effect, other.effect_heldout), abs=1e-5)
