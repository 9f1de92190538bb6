"""What must hold of every intervention, on tiny random models in float64."""

import pytest
import torch

from cotrace.components import Component, ComponentSpace
from cotrace.problem import LanguageProblem
from tests import tiny

SITES = tiny.SITES


def problem(family: str, sites: list[str] | ComponentSpace, **options: object) -> LanguageProblem:
    return LanguageProblem(tiny.model(family), tiny.task(), sites=sites, holdout=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_mask_of_zeros_is_the_base_run(family: str, site: str) -> None:
    p = problem(family, [site])
    nearly = torch.full((len(p.space),), 1e-12)
    assert p.effects(torch.zeros(len(p.space))).abs().max() < 1e-12
    assert p.effects(nearly).abs().max() < 1e-6


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_swapping_all_heads_of_a_layer_is_swapping_its_attention_output(family: str) -> None:
    heads, layer = problem(family, ["head_output"]), problem(family, ["attention_output"])
    for index in range(3):
        chosen = [str(c) for c in heads.space if c.layer == index]
        assert torch.allclose(heads.effects(chosen), layer.effects([f"L{index}.attn"]), atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_swapping_all_neurons_or_coordinates_is_swapping_the_mlp_output(family: str) -> None:
    whole = problem(family, ["mlp_output"])
    for site in ("mlp_neuron", "mlp_coordinate"):
        parts = problem(family, [site])
        chosen = [str(c) for c in parts.space if c.layer == 1]
        assert torch.allclose(parts.effects(chosen), whole.effects(["L1.mlp"]), atol=1e-10)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradient_matches_finite_differences(family: str, site: str) -> None:
    p = problem(family, [site])
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(len(p.space), generator=generator, dtype=torch.float64) * 0.8 + 0.1
    gradient = p.gradient(z)
    tolerance = 1e-6 if family == "gpt2" else 2e-4  # Llama and Qwen3 compute their norms in float32
    step = 1e-5 if family == "gpt2" else 1e-2
    for i in range(0, len(z), max(1, len(z) // 7)):
        e = torch.zeros_like(z).index_fill(0, torch.tensor([i]), step)
        difference = (p.value(z + e) - p.value(z - e)) / (2 * step)
        assert gradient[i].item() == pytest.approx(difference.item(), rel=1e-3, abs=tolerance)


def test_gradient_of_an_objective_on_some_examples() -> None:
    p = problem("gpt2", ["head_output"], metric="odds_ratio")
    z = torch.full((12,), 0.4, dtype=torch.float64)
    some = [4, 1]

    def loss(at: torch.Tensor) -> float:
        return (1 / (1 + p.effects(at, some))).mean().item()

    gradient = p.gradient(z, lambda m: 1 / (1 + m), some)
    for i in range(12):
        e = torch.zeros(12, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-5)
        assert gradient[i].item() == pytest.approx((loss(z + e) - loss(z - e)) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_many_masks_at_once_equal_one_by_one_and_examples_keep_their_order(family: str) -> None:
    p = problem(family, ["head_output", "mlp_neuron"])
    masks = torch.rand(5, len(p.space), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = p.effects(masks)
    assert torch.allclose(together, torch.stack([p.effects(mask) for mask in masks]), atol=1e-10)
    assert torch.allclose(together[:, [5, 0, 3]], p.effects(masks, [5, 0, 3]), atol=1e-10)
    assert torch.allclose(p.value(masks), together.mean(-1), atol=1e-12)


@pytest.mark.parametrize("site", SITES)
def test_keep_mode_runs_from_the_full_swap_to_the_base_run(site: str) -> None:
    keep, swap = problem("llama", [site], mode="keep"), problem("llama", [site])
    n = len(keep.space)
    assert keep.value(torch.zeros(n)).item() == pytest.approx(1.0, abs=1e-9)
    assert keep.value(torch.ones(n)).item() == pytest.approx(0.0, abs=1e-9)
    assert torch.allclose(keep.scores(torch.zeros(n)), swap.scores(torch.zeros(n)))
    assert torch.allclose(keep.scores(torch.ones(n)), swap.scores(torch.ones(n)))
    z = torch.linspace(0, 1, n, dtype=torch.float64)
    full, some = swap.value(torch.ones(n)), swap.value(z)
    assert keep.value(z).item() == pytest.approx(((some - full) / (0 - full)).item(), abs=1e-9)
    assert keep.direction == "maximise"


def test_results_do_not_depend_on_batch_size_or_company() -> None:
    wide, narrow = problem("llama", ["head_output"]), problem("llama", ["head_output"], batch_tokens=1)
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert len(narrow.training.scorer.all_layouts) > 1 == len(wide.training.scorer.all_layouts)
    assert torch.allclose(wide.effects(z), narrow.effects(z), atol=1e-6)  # float32 norms
    assert torch.allclose(wide.gradient(z), narrow.gradient(z), atol=1e-6)
    alone = torch.cat([wide.effects(z, [e]) for e in range(6)])
    assert torch.allclose(wide.effects(z), alone, atol=1e-6)


def test_direction_defaults_to_the_sign_of_the_full_swap_and_costs_are_counted() -> None:
    p = problem("gpt2", ["head_output"])
    mean = p.value(torch.ones(12)).item()
    assert p.direction == ("maximise" if mean >= 0 else "minimise")
    assert f"{p.full_swap.agreeing} of 6 pairs agree" in p.summary
    before = p.cost.forward_equivalents
    p.effects(torch.zeros(4, 12))
    p.effects(torch.zeros(12), [0, 1, 2])
    p.gradient(torch.zeros(12), examples=[0, 1])
    assert p.cost.forward_equivalents - before == pytest.approx(4 + 0.5 + 2 / 3)


def test_a_space_of_some_components_in_any_order() -> None:
    whole = problem("gpt2", ["head_output", "mlp_neuron"])
    names = ["L2.neuron5", "L0.head3", "L0.head1", "L1.neuron127", "L2.neuron4"]
    part = problem("gpt2", ComponentSpace.parse(names))
    z = torch.tensor([0.3, 1.0, 0.6, 0.9, 0.2], dtype=torch.float64)
    spread = torch.zeros(len(whole.space), dtype=torch.float64)
    for name, value in zip(names, z, strict=True):
        spread[whole.space.indices([Component.parse(name)])[0]] = value
    assert torch.allclose(part.effects(z), whole.effects(spread), atol=1e-12)
    assert part.effects(z).abs().max() > 1e-3
