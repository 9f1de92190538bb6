"""Attention and activations that a problem gives are those of plain transformers: one prompt alone, plain hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import cotrace as ct
from cotrace.donors import Noise
from cotrace.errors import CotraceError, InputError, OutputExists, UnsupportedSite
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem, capture
from cotrace.prompts import PromptPair, Task
from tests import tiny
from tests.families import tiny_config, tiny_model

CLOSE = 1e-5
WINDOW = 3
"""Tokens that a sliding window of these models sees: fewer than the prompts have."""
FAMILIES: dict[str, tuple[str, str, str]] = {
    "gpt2": ("transformer.h", "attn.c_proj", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp"),
    "llama": ("model.layers", "self_attn.o_proj", "mlp"),
    "qwen3": ("model.layers", "self_attn.o_proj", "mlp"),
    "mistral": ("model.layers", "self_attn.o_proj", "mlp"),
    "gemma2": ("model.layers", "self_attn.o_proj", "post_feedforward_layernorm"),
    "mixtral": ("model.layers", "self_attn.o_proj", "mlp"),
    "gpt_oss": ("model.layers", "self_attn.o_proj", "mlp"),
}
"""Family -> its layers, and in a layer the output projection and what the MLP adds to the stream comes out of:
multi-head and grouped queries, learned and rotary positions, windows, soft caps with post-norms, experts, sinks."""
HEAD = ("L0.head1", "L1.head3")
ANY = (*HEAD, "L1.mlp", "L0.resid")


@cache
def model(family: str) -> LanguageModel:
    config = tiny_config(family)
    if getattr(config, "sliding_window", None):
        config.sliding_window = WINDOW
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in module.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return wrap(module, tiny.tokenizer(), name=family)


@cache
def problem(family: str, **options: Any) -> LanguageProblem:
    return LanguageProblem(
        model(family), tiny.task(8), **{"sites": ("head_output",), "direction": "maximise", "holdout": 0.25} | options
    )


def every(one: LanguageProblem) -> list[str]:
    assert one.heldout is not None
    return [*one.training.ids, *one.heldout.ids]


def prompts(task: Task, at: str = "base") -> Iterator[tuple[str, Tensor]]:
    for pair in task.pairs:
        yield pair.id, torch.tensor([tiny.tokenizer()(getattr(pair, at))["input_ids"]])


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


@contextmanager
def hooked(module: nn.Module, at: str, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """``act`` sees the module's first input or output; what it gives goes on in its place."""

    def first(value: Any) -> Any:
        found = act(value[0] if isinstance(value, tuple) else value)
        if found is None:
            return None
        return (found, *value[1:]) if isinstance(value, tuple) else found

    if at == "input":
        handle = module.register_forward_pre_hook(lambda _, args: first(args))
    else:
        handle = module.register_forward_hook(lambda _, args, output: first(output))
    with ExitStack() as stack:
        stack.callback(handle.remove)
        yield


def layer(family: str, index: int, name: str = "") -> nn.Module:
    found = model(family).module.get_submodule(FAMILIES[family][0])[index]
    return found.get_submodule(name) if name else found


@torch.no_grad()
def by_hand(family: str, ids: Tensor, edit: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """Attention and activations of one prompt by ``output_attentions`` and hooks; ``edit`` changes L0's heads."""
    kept: dict[str, Tensor] = {}
    _, projection, mlp = FAMILIES[family]

    def keeping(name: str) -> Callable[[Tensor], None]:
        return lambda value: kept.__setitem__(name, value[0].reshape(-1, value.shape[-1]).clone())

    with ExitStack() as stack:
        stack.enter_context(eager(model(family).module))
        if edit is not None:
            stack.enter_context(hooked(layer(family, 0, projection), "input", edit))
        for index in (0, 1):
            stack.enter_context(hooked(layer(family, index, projection), "input", keeping(f"heads{index}")))
        stack.enter_context(hooked(layer(family, 1, mlp), "output", keeping("L1.mlp")))
        stack.enter_context(hooked(layer(family, 0), "output", keeping("L0.resid")))
        out = model(family).module(input_ids=ids, output_attentions=True, use_cache=False)
    for name in HEAD:
        index, head = int(name[1]), int(name[-1])
        heads = kept[f"heads{index}"]
        kept[name] = heads.reshape(len(heads), 4, -1)[:, head]
        kept[f"{name} attends"] = out.attentions[index][0, head]
    return kept


def check_equal(family: str, one: LanguageProblem, prompt_of: str, run: Any, edit_of: Any = None) -> None:
    """Everything asked for, of training and held-out pairs, against one prompt alone."""
    ids = every(one)
    patterns = one.attention(HEAD, pairs=ids, run=run)
    values = one.activations(ANY, pairs=ids, run=run)
    assert list(patterns) == list(values) == ids
    for id_, tokens in prompts(tiny.task(8), prompt_of):
        right = by_hand(family, tokens, edit_of and edit_of(id_))
        assert patterns.tokens[id_] == tuple(tiny.tokenizer().convert_ids_to_tokens(tokens[0].tolist()))
        for row, name in enumerate(HEAD):
            torch.testing.assert_close(patterns[id_][row], right[f"{name} attends"], atol=CLOSE, rtol=0)
        assert set(values[id_]) == set(ANY)
        for name in ANY:
            torch.testing.assert_close(values[id_][name], right[name], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_run_is_plain_transformers_on_each_prompt_alone(family: str) -> None:
    check_equal(family, problem(family), "base", "base")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_donor_run_is_that_of_the_other_prompt(family: str) -> None:
    check_equal(family, problem(family), "counterfactual", "donor")


@pytest.mark.parametrize("family", FAMILIES)
def test_under_a_set_it_is_the_base_prompt_with_the_donors_values_put_in_by_hand(family: str) -> None:
    """Two of layer 0's heads take what they have on the other prompt; layer 1 then does what it does of itself."""
    others = dict(prompts(tiny.task(8), "counterfactual"))

    def edit_of(id_: str) -> Callable[[Tensor], Tensor]:
        donor = by_hand(family, others[id_])["heads0"]

        def edit(own: Tensor) -> Tensor:
            mixed = own.reshape(own.shape[1], 4, -1).clone()
            mixed[:, [1, 2]] = donor.reshape(len(donor), 4, -1)[:, [1, 2]]
            return mixed.reshape(own.shape)

        return edit

    check_equal(family, problem(family), "base", ["L0.head1", "L0.head2"], edit_of)


def test_the_window_of_these_models_is_shorter_than_the_prompts() -> None:
    """Else the tests above would say nothing of windows; and attention to a sink leaves rows below 1."""
    for family in ("mistral", "gemma2", "gpt_oss"):
        found = problem(family).attention("L0.head0")
        long = next(rows[0] for rows in found.values() if rows.shape[-1] > WINDOW)
        assert long[-1, 0] == 0
        assert bool((long.sum(-1) < 0.99).any()) == (family == "gpt_oss")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("sites", ["head_output", "attention_pattern"])
@pytest.mark.parametrize("run", ["base", "donor", "set"])
def test_neither_packing_nor_a_kept_prefix_changes_what_is_captured(family: str, sites: str, run: str) -> None:
    packed, plain = (problem(family, sites=(sites,), packing=rows) for rows in ("packed", "plain"))
    assert packed.packing.packed
    assert packed.training.scorer.prefix is not None
    assert not plain.packing.packed
    chosen = packed.space.names[1:7:2] if run == "set" else run
    for one, other in zip(
        packed.activations(ANY, run=chosen).values(), plain.activations(ANY, run=chosen).values(), strict=True
    ):
        assert all(torch.allclose(one[name], other[name], atol=CLOSE) for name in ANY)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_a_set_may_be_names_a_selection_or_a_mask(mode: str) -> None:
    one = problem("llama", mode=mode)
    names = ["L0.head1", "L1.head0"]
    mask = torch.tensor([float((name in names) == (mode == "swap")) for name in one.space.names])
    by_names, by_mask = (one.attention("L1.head3", run=run) for run in (names, mask))
    by_selection = one.attention(ct.Selection.parse(["L1.head3"]), run=ct.Selection.parse(names))
    base = one.attention("L1.head3")
    for id_ in base:
        assert torch.equal(by_names[id_], by_mask[id_])
        assert torch.equal(by_names[id_], by_selection[id_])
        assert not torch.allclose(by_names[id_], base[id_], atol=1e-4)
    assert by_names.run == f"{mode} L0.head1, L1.head0"


def test_a_swapped_expert_has_the_donors_contribution() -> None:
    """Whatever the edits before it on the same module made of the others: every expert of a layer at once too."""
    model = wrap(tiny_model("mixtral"), tiny.tokenizer(), name="mixtral")
    problem = LanguageProblem(model, tiny.task(4), sites=["expert"], holdout=0)
    names = [str(one) for one in problem.space if one.layer == 0]
    for swapped in (names[:1], names):
        base, donor, seen = (problem.activations(names, run=run) for run in ("base", "donor", swapped))
        moved = 0.0
        for pair in seen:
            for name in names:
                expected = (donor if name in swapped else base)[pair][name]
                torch.testing.assert_close(seen[pair][name], expected, atol=1e-6, rtol=0)
                moved += float((donor[pair][name] - base[pair][name]).abs().sum()) if name in swapped else 0.0
        assert moved > 1e-3


def test_a_set_of_patterns_is_seen_in_the_patterns_it_sets() -> None:
    """The donor's weights at the prompt; the last edit of a place is in what is captured there."""
    one = problem("llama", sites=("attention_pattern",))
    under, donor = (one.attention("L1.pattern2", run=run) for run in (["L1.pattern2"], "donor"))
    for id_ in under:
        torch.testing.assert_close(under[id_], donor[id_], atol=CLOSE, rtol=0)
    values = one.activations("L1.pattern2", run=["L1.pattern2"])
    assert all(torch.equal(values[id_]["L1.pattern2"], under[id_][0]) for id_ in under)


def test_the_donor_run_of_noise_is_the_noised_prompt() -> None:
    noise = {"p0": torch.randn(4, 32, generator=torch.Generator().manual_seed(1))}
    task = replace(tiny.task(1), name="one")
    donors = Noise(tensors=noise)
    one = LanguageProblem(model("llama"), task, sites=["head_output"], donors=donors, holdout=0, direction="maximise")
    found = one.activations("L0.resid", run="donor")["p0"]["L0.resid"]
    embedding = model("llama").module.get_input_embeddings()
    with hooked(embedding, "output", lambda own: own + noise["p0"]):
        right = by_hand("llama", next(prompts(task))[1])
    torch.testing.assert_close(found, right["L0.resid"], atol=CLOSE, rtol=CLOSE)
    assert not torch.allclose(found, one.activations("L0.resid")["p0"]["L0.resid"], atol=1e-3)


def test_a_small_batch_and_a_large_one_give_the_same() -> None:
    small, large = (problem("gpt2", batch_tokens=count).activations(ANY) for count in (1, 4096))
    for id_ in large:
        assert all(torch.allclose(small[id_][name], large[id_][name], atol=CLOSE) for name in ANY)


def test_memory_that_runs_out_makes_the_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    one = LanguageProblem(model("gpt2"), tiny.task(8), sites=["head_output"], holdout=0, direction="maximise")
    whole = one.activations(ANY)
    plain, rows = capture.forward, []

    def scarce(model: Any, layout: Any, *rest: Any, **named: Any) -> Any:
        rows.append(layout.rows)
        if layout.rows > 2:
            raise torch.OutOfMemoryError("out of memory")
        return plain(model, layout, *rest, **named)

    monkeypatch.setattr(capture, "forward", scarce)
    fewer = one.activations(ANY)
    assert max(rows) > 2
    for id_ in whole:
        assert all(torch.allclose(fewer[id_][name], whole[id_][name], atol=CLOSE) for name in ANY)


def test_streamed_to_a_file_it_is_the_same_and_safetensors_reads_it(tmp_path: Path) -> None:
    one = problem("llama")
    memory, file = one.activations(ANY), tmp_path / "values.safetensors"
    streamed = one.activations(ANY, out=file)
    read = load_file(file)
    assert set(read) == {f"{id_}/{name}" for id_ in memory for name in ANY}
    for id_ in memory:
        for name in ANY:
            assert torch.equal(memory[id_][name], streamed[id_][name])
            assert torch.equal(memory[id_][name], read[f"{id_}/{name}"])
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about["run"] == "base"
    assert json.loads(about["tokens"]) == {id_: list(tokens) for id_, tokens in memory.tokens.items()}
    patterns = one.attention(HEAD, out=tmp_path / "patterns.safetensors")
    found = load_file(tmp_path / "patterns.safetensors")
    assert all(torch.equal(found[f"{id_}/attention"], patterns[id_]) for id_ in patterns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patterns.safetensors", "values.safetensors"]


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    one = problem("llama")
    monkeypatch.setattr(capture, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        one.activations(ANY, out=tmp_path / "values.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_is_spent_is_counted_and_nothing_is_changed() -> None:
    one = problem("gpt2")
    before = one.effects(["L0.head1"])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in one.model.module.modules()]
    spent = one.cost.forward_equivalents
    one.attention(HEAD)
    assert one.cost.forward_equivalents == spent + 1
    one.activations(ANY, pairs=one.training.ids[:3], run=["L0.head1"])
    assert one.cost.forward_equivalents == pytest.approx(spent + 1 + 3 / one.size)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in one.model.module.modules()] == hooks
    assert torch.equal(one.effects(["L0.head1"]), before)


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda p: p.attention("L0.mlp"), InputError, "L0.mlp has no attention pattern; give heads such as L3.head0"),
        (lambda p: p.attention([]), InputError, "an empty list has no attention pattern"),
        (lambda p: p.attention("L0.head9"), InputError, "has no L0.pattern9; it has 8 attention_pattern in 2 layers"),
        (lambda p: p.attention("L7.head1"), InputError, "has no L7.pattern1"),
        (lambda p: p.attention(3), InputError, "heads is 3; give component names"),
        (lambda p: p.activations("head1"), InputError, "'head1' is not a component"),
        (lambda p: p.activations([]), InputError, "an empty list; give component names"),
        (lambda p: p.activations("L0.expert1"), UnsupportedSite, "has no expert; it has"),
        (lambda p: p.activations("L0.mlp", pairs=["p99"]), InputError, "there is no pair 'p99'"),
        (lambda p: p.activations("L0.mlp", pairs=[]), InputError, "an empty list of pairs"),
        (lambda p: p.activations("L0.mlp", pairs=[1]), InputError, "pairs is [1]; give"),
        (lambda p: p.activations("L0.mlp", run="bass"), InputError, "run is 'bass'; give base, donor or a set"),
        (lambda p: p.activations("L0.mlp", run=["L0.mlp"]), InputError, "L0.mlp is not in this component space"),
        (lambda p: p.activations("L0.mlp", run=torch.zeros(2, 8)), InputError, "run is 2 sets; give one"),
        (lambda p: p.activations("L0.mlp", run=torch.zeros(5)), InputError, "a mask has shape [5]"),
    ],
)
def test_bad_input_is_one_line(ask: Any, kind: type[CotraceError], words: str) -> None:
    with pytest.raises(kind) as caught:
        ask(problem("llama"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_that_are_refused_or_kept_apart_are_said_to_be() -> None:
    pairs = (*tiny.task(12).pairs, PromptPair(id="odd", base="w1 w2", counterfactual="w3", answers=(" w4", " w5")))
    with pytest.warns(UserWarning, match="refused"):
        one = LanguageProblem(
            model("llama"), Task(name="odd", pairs=pairs), sites=["head_output"], audit=0.2, direction="maximise"
        )
    with pytest.raises(InputError, match="the pair 'odd' was refused: pair odd"):
        one.attention("L0.head1", pairs=["odd"])
    assert one.audit is not None
    with pytest.raises(InputError, match="is kept for the audit"):
        one.attention("L0.head1", pairs=one.audit.ids[0])


def test_donors_that_no_prompt_gave_have_no_run() -> None:
    one = problem("llama", donors="zero")
    with pytest.raises(InputError, match="donors='zero' are values that no prompt gave"):
        one.attention("L0.head1", run="donor")
    zeroed = one.activations("L0.head1", run=["L0.head1"])
    assert all(bool((found["L0.head1"] == 0).all()) for found in zeroed.values())


def test_families_whose_patterns_stay_inside_are_refused() -> None:
    one = LanguageProblem(
        wrap(tiny_model("bloom"), tiny.tokenizer(), name="bloom"),
        tiny.task(4),
        sites=["head_output"],
        holdout=0,
        direction="maximise",
    )
    with pytest.raises(UnsupportedSite, match="bloom has no attention_pattern; it has head_output"):
        one.attention("L0.head1")
    assert one.activations("L0.head1")["p0"]["L0.head1"].shape == (4, 8)


def test_more_than_memory_allows_is_refused_before_a_pass_and_goes_to_a_file(tmp_path: Path) -> None:
    one = problem("llama", memory=20_000)
    spent = one.cost.forward_equivalents
    with pytest.raises(InputError, match=r"memory allows 20,000: give out=FILE"):
        one.activations([f"L{layer}.{site}" for layer in (0, 1) for site in ("mlp", "attn", "resid")])
    assert one.cost.forward_equivalents == spent
    assert len(one.activations(["L0.mlp", "L1.mlp"], out=tmp_path / "out.safetensors")) == one.size


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(OutputExists, match="exists already: name a new file with out"):
        problem("llama").attention("L0.head1", out=tmp_path / "there.safetensors")
    with pytest.raises(InputError, match="there is no folder"):
        problem("llama").attention("L0.head1", out=tmp_path / "nowhere" / "x.safetensors")
