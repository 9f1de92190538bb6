"""Where the sites are found: equalities between sites, hybrids, mixtures, and what is refused."""

import pytest
import torch
import transformers

from cotrace.components import Component, Site
from cotrace.errors import ModelError
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem
from tests import tiny
from tests.families import HEADS, KV_HEADS, TABLE_VERSION, tiny_model, tried

newest = pytest.mark.skipif(transformers.__version__ != TABLE_VERSION, reason="how these are built in older versions")
PAIRS = tiny.task(3, answer_tokens=(1, 1))


def model(family: str) -> LanguageModel:
    return wrap(tried(family), tiny.tokenizer(), name=family)


def effects(some: LanguageModel, site: Site, layer: int) -> torch.Tensor:
    """Effects of swapping all units of a site at one layer."""
    problem = LanguageProblem(some, PAIRS, sites=[site], holdout=0)
    return problem.effects(torch.tensor([float(component.layer == layer) for component in problem.space]))


@pytest.mark.parametrize(
    "family", ["bloom", "mpt", "falcon", "gptj", "gpt_neo", "xglm", "bert", "opt", "phi", "deepseek_v3", "openai-gpt"]
)
def test_all_heads_are_the_attention_output_and_all_neurons_the_mlp_output(family: str) -> None:
    """BLOOM and MPT add the residual stream inside, BERT projects outside, OPT hangs its MLP in the layer itself."""
    some = model(family)
    for parts, whole in ((Site.HEAD_OUTPUT, Site.ATTENTION_OUTPUT), (Site.MLP_NEURON, Site.MLP_OUTPUT)):
        moved = effects(some, whole, 0)
        assert moved.abs().max() > 1e-4
        assert torch.allclose(effects(some, parts, 0), moved, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "olmoe"])
def test_all_experts_are_the_mlp_output_where_nothing_else_is_in_it(family: str) -> None:
    some = model(family)
    assert torch.allclose(effects(some, Site.EXPERT, 1), effects(some, Site.MLP_OUTPUT, 1), atol=1e-5)
    assert Site.MLP_NEURON not in some.sites


@newest
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2_moe"])
def test_experts_beside_a_shared_one_are_not_all_of_the_mlp(family: str) -> None:
    some = model(family)
    experts, whole = effects(some, Site.EXPERT, 1), effects(some, Site.MLP_OUTPUT, 1)
    assert (experts - whole).abs().max() > 1e-5
    assert some.layers[1].place(Site.MLP_NEURON) is None


def test_a_group_is_its_heads() -> None:
    some = model("llama")
    groups = LanguageProblem(some, PAIRS, sites=["kv_group"], holdout=0)
    heads = LanguageProblem(some, PAIRS, sites=["head_output"], holdout=0)
    assert [str(c) for c in groups.space] == ["L0.kv0", "L0.kv1", "L1.kv0", "L1.kv1"]
    each = HEADS // KV_HEADS
    for layer in range(2):
        for group in range(KV_HEADS):
            members = [f"L{layer}.head{group * each + i}" for i in range(each)]
            assert torch.allclose(groups.effects([f"L{layer}.kv{group}"]), heads.effects(members), atol=1e-6)


def test_the_residual_stream_after_the_last_layer_is_the_whole_donor_run() -> None:
    some = model("gpt2")
    problem = LanguageProblem(some, PAIRS, sites=["residual"], holdout=0)
    ids = [torch.tensor([some.require_tokenizer()(pair.counterfactual)["input_ids"]]) for pair in PAIRS.pairs]
    logits = [some.module(input_ids=row).logits[0, -1].log_softmax(-1) for row in ids]
    answers = [[some.require_tokenizer()(answer)["input_ids"][0] for answer in pair.answers] for pair in PAIRS.pairs]
    expected = torch.stack([row[columns] for row, columns in zip(logits, answers, strict=True)])
    assert torch.allclose(problem.scores(["L1.resid"]), expected, atol=1e-5)


@newest
@pytest.mark.parametrize("family", ["qwen3_5_text", "jamba", "bamba", "zamba2", "lfm2_moe"])
def test_hybrids_have_heads_in_the_layers_that_attend(family: str) -> None:
    some = model(family)
    assert list(some.places(Site.HEAD_OUTPUT)) == [1]
    assert list(some.places(Site.RESIDUAL)) == [0, 1]
    assert str(some.space((Site.HEAD_OUTPUT,))[0]) == "L1.head0"


def test_latent_and_multi_query_attention() -> None:
    assert Site.KV_GROUP not in model("deepseek_v3").sites
    queries = model("gpt_bigcode").places(Site.KV_GROUP)
    assert {place.units for place in queries.values()} <= {1, KV_HEADS}


@pytest.mark.parametrize(
    ("family", "site", "why"),
    [
        ("falcon", Site.ATTENTION_PATTERN, "cannot be read and replaced"),
        ("longcat_flash", Site.HEAD_OUTPUT, "attends several times"),
        ("deepseek_v3", Site.MLP_NEURON, "not all of what the layer adds"),
        ("hrm_text", Site.HEAD_OUTPUT, "runs several times in one forward"),
        ("gemma3n_text", Site.RESIDUAL, "not the next one's input"),
        ("inkling2_text", Site.RESIDUAL, "more than the last layer's output"),
    ],
)
def test_what_is_not_traced_says_why(family: str, site: Site, why: str) -> None:
    some = model(family)
    assert any(layer.place(site) is None for layer in some.layers)
    assert any(why in layer.missing[site] for layer in some.layers if site in layer.missing)


def test_nothing_is_left_behind_by_looking() -> None:
    module = tiny_model("gpt2").train()
    before = module.config._attn_implementation
    assert wrap(module).layers
    assert module.training
    assert module.config._attn_implementation == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("name", ["L9.kv2", "L3.resid", "L5.expert3", "L3.resid@subject"])
def test_names_of_the_new_sites_parse_and_print(name: str) -> None:
    assert str(Component.parse(name)) == name


@pytest.mark.parametrize(
    ("said", "words"), [(("",), "AssertionError"), (("not this way\nat all",), "not this way"), ((), "AssertionError")]
)
def test_a_model_that_refuses_tokens_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...], words: str
) -> None:
    """Whatever it raises, be it an assertion that says nothing."""
    model = wrap(tiny.model("gpt2").module)  # not taken apart yet

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(*said)

    monkeypatch.setattr(model.module.transformer, "forward", refuse)
    with pytest.raises(ModelError, match=rf"^GPT2LMHeadModel does not run on token ids alone \({words}\): cotrace"):
        _ = model.layers
