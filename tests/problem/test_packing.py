"""Packed rows and kept prefixes give the scores, effects and gradients of plain rows."""

from dataclasses import replace

import pytest
import torch
import transformers
from packaging.version import parse
from transformers import AutoModelForCausalLM, MistralConfig

from cotrace.components import ComponentSpace, Site
from cotrace.models import wrap
from cotrace.problem import LanguageProblem
from cotrace.problem.batching import reference
from cotrace.problem.passes import mask_length, shortest_window
from cotrace.prompts import Task
from tests import tiny


def late_task() -> Task:
    """Pairs that differ in their last token only, so that all before it is kept; one differs nowhere."""
    pairs = [
        replace(pair, counterfactual=" ".join([*pair.base.split()[:-1], f"w{i + 1}"]))
        for i, pair in enumerate(tiny.task(5, answer_tokens=(3, 1, 2)).pairs)
    ]
    return Task(name="late", pairs=(*pairs[:-1], replace(pairs[-1], counterfactual=pairs[-1].base)))


@pytest.mark.parametrize("site", [site.value for site in (Site.ATTENTION_PATTERN, Site.HEAD_OUTPUT, Site.MLP_NEURON)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_and_kept_equal_plain(family: str, site: str) -> None:
    model, task = tiny.model(family), late_task()
    packed = LanguageProblem(model, task, sites=[site], holdout=0, direction="maximise")
    plain = LanguageProblem(model, task, sites=[site], holdout=0, packing="plain", direction="maximise")
    assert packed.packing.keep_prefix
    assert packed.plan.tokens < plain.plan.tokens / 2
    assert [encoded.prefix for encoded in packed.training.scorer.pairs] == [3, 4, 5, 3, 4]
    z = torch.rand(3, len(packed.space), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tolerance = 1e-10 if family == "gpt2" else 1e-5  # norms in float32
    assert torch.allclose(packed.scores(z), plain.scores(z), atol=tolerance)
    assert torch.allclose(packed.gradient(z[0]), plain.gradient(z[0]), atol=tolerance)
    assert torch.allclose(packed.effects(z, [4, 1]), plain.effects(z)[:, [4, 1]], atol=tolerance)
    assert packed.effects(z).abs().max() > 1e-3


@pytest.mark.parametrize("donors", ["counterfactual", "noise=3x@last", "zero", "resample"])
@pytest.mark.parametrize("positions", ["prompt", "prompt+answer"])
def test_every_donor_gives_the_same_packed_and_plain(donors: str, positions: str) -> None:
    model, task = tiny.model("gpt2"), late_task()
    options = {"sites": ["head_output"], "holdout": 0, "donors": donors, "positions": positions}
    if donors == "resample":
        task = tiny.task(9)
    packed, plain = (
        LanguageProblem(model, task, packing=rows, **{"direction": "maximise", **options})
        for rows in ("packed", "plain")
    )  # type: ignore[arg-type]
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.allclose(packed.scores(z), plain.scores(z), atol=1e-10)


def test_a_window_shorter_than_an_example_takes_plain_rows() -> None:
    model = tiny.model("qwen3")
    assert shortest_window(model) is None
    model.module.config.sliding_window, model.module.config.use_sliding_window = 3, True
    try:
        assert shortest_window(model) == 3
        assert not LanguageProblem(
            model, tiny.task(), sites=["head_output"], holdout=0, direction="maximise"
        ).packing.packed
    finally:
        model.module.config.sliding_window, model.module.config.use_sliding_window = None, False


@pytest.mark.parametrize("site", tiny.SITES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_runs_that_start_at_the_lowest_changed_layer_equal_whole_runs(family: str, site: str) -> None:
    model = tiny.model(family)
    short = LanguageProblem(model, tiny.task(), sites=[site], holdout=0, direction="maximise")
    whole = LanguageProblem(model, tiny.task(), sites=[site], holdout=0, packing="plain", direction="maximise")
    n = len(short.space)
    chosen = torch.zeros(n, dtype=torch.float64).index_fill(0, torch.tensor([0, n // 2]), 1)
    masks = (chosen + torch.eye(n, dtype=torch.float64)).clamp(max=1)  # the candidates of a greedy step
    shared = reference(masks, short.training.scorer.layers, 3)
    assert shared is not None
    assert torch.equal(shared.mask, chosen)
    differing = {component.layer for component, taken in zip(short.space, chosen, strict=True) if not taken}
    assert {layer for layer, _ in shared.groups} == differing | {2}
    tolerance = 1e-9 if family == "gpt2" else 1e-5
    one_by_one = torch.stack([whole.effects(mask) for mask in masks])
    assert torch.allclose(short.effects(masks), one_by_one, atol=tolerance)
    assert site == "residual" or one_by_one.std(0).max() > 1e-3


def test_layers_below_the_entry_are_not_computed() -> None:
    model = tiny.model("gpt2")
    problem = LanguageProblem(model, tiny.task(), sites=["head_output"], holdout=0, direction="maximise")
    if parse(transformers.__version__) < parse("5.1") and not problem.packing.shortcuts:
        pytest.skip("the layers of the oldest transformers give tuples, and cannot be passed by")
    assert problem.training.scorer.base.isfinite().all()  # the base run is made, which passes all layers
    calls = [0, 0, 0]
    handles = []
    for i, layer in enumerate(model.layers):

        def count(module: object, args: tuple[torch.Tensor, ...], i: int = i) -> None:
            calls[i] += args[0].shape[0]

        handles.append(layer.module.ln_1.register_forward_pre_hook(count))
    problem.effects(torch.eye(12))
    for handle in handles:
        handle.remove()
    rows = problem.training.scorer.all_layouts[0].rows
    assert calls == [rows * (1 + 4), rows * (1 + 8), rows * (1 + 12)]
    assert all("forward" not in vars(layer.module) for layer in model.layers)


def test_rows_stay_within_a_causal_mask_that_the_model_keeps_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("gpt2")
    before = LanguageProblem(model, late_task(), sites=["head_output"], holdout=0, direction="maximise")
    side = 20
    monkeypatch.setattr(model.module.config, "n_positions", side)
    model.module.register_buffer("ready", torch.tril(torch.ones(1, 1, side, side, dtype=torch.bool)), persistent=False)
    try:
        assert mask_length(model) == side
        after = LanguageProblem(model, late_task(), sites=["head_output"], holdout=0, direction="maximise")
        monkeypatch.setattr(model.module.config, "n_positions", 5)
        model.module.ready = torch.tril(torch.ones(5, 5))
        short = LanguageProblem(model, late_task(), sites=["head_output"], holdout=0, direction="maximise")
    finally:
        del model.module.ready
    layouts = after.training.scorer.all_layouts
    spans = [layout.length + layout.cached.shape[1] for layout in layouts]
    whole = before.training.scorer.all_layouts[0]
    assert whole.length + whole.cached.shape[1] > side >= max(spans)
    assert after.packing.packed
    assert not short.packing.packed  # a pair's prompt with both answers is longer than the mask
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.allclose(before.scores(z), after.scores(z), atol=1e-10)
    assert torch.allclose(before.scores(z), short.scores(z), atol=1e-10)


@pytest.mark.parametrize("donors", ["counterfactual", "resample"])
def test_a_batch_in_which_no_pair_has_a_prefix(donors: str) -> None:
    """Some pairs differ from their first token on; every batch is of one pair."""
    pairs = [
        replace(pair, counterfactual=" ".join([f"w{i + 7}", *pair.base.split()[1:]]))
        if i % 2
        else replace(pair, base=f"w1 w2 {pair.base}", counterfactual=f"w1 w2 {pair.counterfactual}")
        for i, pair in enumerate(tiny.task(12).pairs)
    ]
    task = Task(name="mixed", pairs=tuple(pairs))
    options = {"sites": ["head_output"], "holdout": 0, "donors": donors, "batch_tokens": 1}
    packed, plain = (
        LanguageProblem(tiny.model("gpt2"), task, packing=rows, **{"direction": "maximise", **options})
        for rows in ("packed", "plain")
    )  # type: ignore[arg-type]
    prefixes = [
        [packed.training.scorer.pairs[e].prefix for e in layout.examples]
        for layout in packed.training.scorer.all_layouts
    ]
    assert any(map(any, prefixes))
    assert any(not any(layout) for layout in prefixes)
    z = torch.rand(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(packed.scores(z), plain.scores(z), atol=1e-10)
    assert torch.allclose(packed.gradient(z[0]), plain.gradient(z[0]), atol=1e-10)


def test_a_window_shorter_than_a_donor_prompt_takes_plain_rows() -> None:
    """The base prompts fit into the window, the donors', which are longer, do not."""
    config = MistralConfig(**tiny.LLAMA, sliding_window=9, head_dim=8)
    module = AutoModelForCausalLM.from_config(config).double().eval()
    model = wrap(module, tiny.tokenizer(), name="window")
    pairs = [
        replace(pair, counterfactual=" ".join(["w9", *["w8"] * (9 + i), *pair.base.split()[1:]]))
        for i, pair in enumerate(tiny.task(5).pairs)
    ]
    options = {"sites": ["head_output"], "holdout": 0, "align": "ends"}
    task = Task(name="longer", pairs=tuple(pairs))
    built, plain = (
        LanguageProblem(model, task, packing=rows, **{"direction": "maximise", **options})
        for rows in ("packed", "plain")
    )  # type: ignore[arg-type]
    z = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not built.packing.packed
    assert torch.allclose(built.effects(z), plain.effects(z), atol=1e-6)


@pytest.mark.parametrize("site", ["head_output", "mlp_neuron"])
def test_the_order_of_a_space_does_not_matter(site: str) -> None:
    model, task = tiny.model("gpt2"), tiny.task(8)
    names = [str(c) for c in model.space((Site(site),)) if c.layer == 1]
    forward, backward = (
        LanguageProblem(model, task, sites=ComponentSpace.parse(order), holdout=0, direction="maximise")
        for order in (names, names[::-1])
    )
    for name in (names[0], names[-1]):
        assert torch.equal(forward.value([name]), backward.value([name]))
    assert not torch.equal(forward.value([names[0]]), forward.value([names[-1]]))
