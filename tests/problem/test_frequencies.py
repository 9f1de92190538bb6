"""RoPE whose frequencies depend on the longest row of a pass: every row as plain transformers runs it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Phi3Config, PreTrainedConfig

from cotrace import selfcheck
from cotrace.donors import Mean
from cotrace.editing.generation import Sampling, continuations
from cotrace.errors import AlignmentError
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem
from cotrace.problem.passes import Trials
from cotrace.prompts import PromptPair, Task
from tests import tiny

LIMIT, HEAD = 12, 8
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 4.0, 6.0, 9.0],
    "factor": 4.0,
    "original_max_position_embeddings": LIMIT,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
SIZES = {**tiny.LLAMA, "pad_token_id": None, "eos_token_id": None, "bos_token_id": None}


def config(kind: str) -> PreTrainedConfig:
    if kind == "longrope":
        return Phi3Config(
            **{**SIZES, "max_position_embeddings": 64},
            original_max_position_embeddings=LIMIT,
            rope_parameters=LONGROPE,
        )
    if kind == "by layer":
        return Gemma3TextConfig(
            **{**SIZES, "max_position_embeddings": LIMIT},
            head_dim=HEAD,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                "full_attention": DYNAMIC,
            },
        )
    return LlamaConfig(**{**SIZES, "max_position_embeddings": LIMIT}, rope_parameters=DYNAMIC)


def module_of(kind: str) -> Any:
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(config(kind))
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module.double().eval()


KINDS = ["longrope", "dynamic", "by layer"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> LanguageModel:
    return wrap(module_of(kind), tiny.tokenizer(), name=kind)


def pairs(lengths: list[tuple[int, int]]) -> Task:
    generator = torch.Generator().manual_seed(5)
    made = []
    for i, (n, answer) in enumerate(lengths):
        base = tiny.words(generator, n)
        other = [*base[:2], *tiny.words(generator, 1), *base[3:]]
        answers = tuple("".join(f" {word}" for word in tiny.words(generator, count)) for count in (1, answer))
        made.append(PromptPair(id=f"p{i}", base=" ".join(base), counterfactual=" ".join(other), answers=answers))
    return Task(name="lengths", pairs=tuple(made), metric="log_odds")


TASK = pairs([(5, 2), (10, 3), (12, 1), (11, 4), (12, 3), (13, 2), (18, 4), (6, 8), (18, 1), (5, 9), (30, 2)])
"""Below the limit, on it, above it, and with answers that lie on either side of it."""


def fresh(kind: str) -> Any:
    """The same model with nothing run before."""
    return module_of(kind)


@contextmanager
def patched(module: Any, donor: Tensor | None) -> Iterator[list[Tensor]]:
    """The output projection's input of layer 1: recorded, and where a donor is given replaced on the prompt."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(args[0].clone())
        own = args[0].clone()
        if donor is not None:
            own[0, : donor.shape[1], 2 * HEAD : 3 * HEAD] = donor[0, :, 2 * HEAD : 3 * HEAD]
        return (own,)

    handle = module.model.layers[1].self_attn.o_proj.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def by_hand(kind: str, pair: PromptPair, *, swapped: bool) -> list[float]:
    """Scores by plain calls of one row each, each in a model that has run nothing before."""
    words = tiny.tokenizer()
    prompt, other = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
    donor = None
    if swapped:
        module = fresh(kind)
        with patched(module, None) as seen:
            module(input_ids=torch.tensor([other]))
        donor = seen[0]
    found = []
    for answer in pair.answers:
        tokens = words(answer)["input_ids"]
        module = fresh(kind)
        with patched(module, donor):
            logits = module(input_ids=torch.tensor([prompt + tokens[:-1]])).logits[0].log_softmax(-1)
        found.append(sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens)))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": "plain"},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({"batch_tokens": 40}, {"memory": 70_000})),
    ],
)
def test_every_row_has_the_scores_that_it_has_alone(kind: str, model: LanguageModel, options: dict[str, Any]) -> None:
    problem = LanguageProblem(model, TASK, sites=["head_output"], holdout=0, **options)
    base, swapped = problem.training.scorer.base, problem.scores(["L1.head2"])
    for i, pair in enumerate(TASK.pairs):
        assert base[i].tolist() == pytest.approx(by_hand(kind, pair, swapped=False), abs=1e-9), pair.id
        assert swapped[i].tolist() == pytest.approx(by_hand(kind, pair, swapped=True), abs=1e-9), pair.id
    assert all(pair.prefix == 0 for pair in problem.training.scorer.pairs if pair.fed > LIMIT)
    if not options:
        assert any(pair.prefix for pair in problem.training.scorer.pairs)  # below the limit they are kept


def test_gradients_are_those_of_the_effects(model: LanguageModel) -> None:
    """Of pairs whose answers are scored in several passes as well, with and without checkpointing."""
    z = torch.linspace(0.2, 0.8, 12, dtype=torch.float64)
    step = 3e-3 * torch.eye(12, dtype=torch.float64)  # these families compute their norms in float32
    for checkpointing in ("off", "on"):
        problem = LanguageProblem(
            model,
            TASK,
            sites=["head_output"],
            holdout=0,
            metric="odds_ratio",
            checkpointing=checkpointing,  # type: ignore[arg-type]
        )
        slopes = torch.stack([(problem.value(z + row) - problem.value(z - row)) / 6e-3 for row in step])
        assert torch.allclose(problem.gradient(z), slopes, atol=5e-4)


def test_no_pass_holds_rows_of_different_frequencies(model: LanguageModel) -> None:
    seen: list[int] = []
    rotary = model.module.model.rotary_emb
    problem = LanguageProblem(model, TASK, sites=["head_output"], holdout=0)
    limit = problem.packing.frequencies
    assert limit is not None
    assert limit.after == LIMIT
    rotary.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(int(kwargs.get("position_ids", args[1:2] and args[1]).max()) + 1),
        with_kwargs=True,
    )
    _ = problem.scores(torch.rand(3, 12))
    alone = {limit.kind(len(p.prompt) + len(a) - 1) for p in problem.encoding.pairs for a in p.answers}
    assert {limit.kind(length) for length in seen} == alone


def test_the_model_is_as_before(kind: str, model: LanguageModel) -> None:
    """What it has run before neither changes what is found, nor is it changed."""
    ids = torch.arange(40)[None] % tiny.VOCABULARY
    with torch.no_grad():
        model.module(input_ids=ids)
        state = [buffer.clone() for buffer in model.module.buffers()]
        problem = LanguageProblem(model, TASK, sites=["head_output"], holdout=0)
        after = list(model.module.buffers())
    if kind != "longrope":  # whose frequencies are chosen anew in every pass
        assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    assert problem.training.scorer.base[0].tolist() == pytest.approx(
        by_hand(kind, TASK.pairs[0], swapped=False), abs=1e-9
    )


def test_donor_runs_with_answers(kind: str, model: LanguageModel) -> None:
    options = {"sites": ["head_output"], "holdout": 0, "positions": "prompt+answer"}
    with pytest.raises(AlignmentError, match=r"answers differ in length about the 12 tokens .* use positions prompt"):
        LanguageProblem(model, pairs([(12, 3)]), **options)  # type: ignore[arg-type]
    problem = LanguageProblem(model, pairs([(18, 1), (5, 3), (14, 1), (11, 2)]), **options)  # type: ignore[arg-type]
    expected = by_hand(kind, problem.source_task.pairs[0], swapped=True)
    assert problem.scores(["L1.head2"])[0].tolist() == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def test_a_mean_is_over_prompts_that_run_alone(kind: str, model: LanguageModel) -> None:
    problem = LanguageProblem(model, pairs([(5, 1), (20, 1), (9, 1)]), sites=["head_output"], donors=Mean(), holdout=0)
    values = []
    for pair in problem.source_task.pairs:
        module = fresh(kind)
        with patched(module, None) as seen:
            module(input_ids=torch.tensor([tiny.tokenizer()(pair.base)["input_ids"]]))
        values.append(seen[0][0])
    donors = problem.training.scorer.donors
    place = model.places(problem.space.sites[0])[1]
    assert torch.allclose(donors.values[place], torch.cat(values).mean(0), atol=1e-9)  # type: ignore[attr-defined]


def test_logits_are_those_of_the_prompt_alone(kind: str, model: LanguageModel) -> None:
    problem = LanguageProblem(model, pairs([(6, 9), (18, 2), (11, 4)]), sites=["head_output"], metric="kl", holdout=0)
    for i, pair in enumerate(problem.source_task.pairs):
        with torch.no_grad():
            expected = fresh(kind)(input_ids=torch.tensor([tiny.tokenizer()(pair.base)["input_ids"]])).logits[0, -1]
        assert torch.allclose(problem.training.scorer.base[i], expected, atol=1e-9)


def test_generated_text_does_not_depend_on_the_prompts_beside_it() -> None:
    model = wrap(module_of("longrope"), tiny.tokenizer(), name="longrope")
    prompts = [TASK.pairs[0].base, TASK.pairs[6].base, TASK.pairs[1].base]
    sampling = Sampling(max_new_tokens=4)
    together = continuations(model, prompts, sampling)
    assert together == [continuations(model, [prompt], sampling)[0] for prompt in prompts]


def test_the_check_says_so(model: LanguageModel) -> None:
    report = selfcheck.check(model, sites=["head_output"])
    assert report.ok, report.reason
    assert "RoPE changes above 12 tokens" in str(report)


class Own(nn.Module):
    """A rotary embedding of somebody's own: other frequencies above a length that the configuration names."""

    def __init__(self, inner: Any, keeps: bool) -> None:
        super().__init__()
        self.inner, self.keeps, self.longest = [inner], keeps, 0

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        length = int(position_ids.max()) + 1
        self.longest = max(self.longest, length) if self.keeps else length
        frequency = 1.0 / (50.0 ** (torch.arange(0, HEAD, 2) / HEAD)) / (3.0 if self.longest > LIMIT else 1.0)
        angle = (position_ids[..., None].double() * frequency).repeat(1, 1, 2)
        return angle.cos(), angle.sin()


def own(*, keeps: bool) -> LanguageModel:
    module = module_of("dynamic")
    module.model.rotary_emb = Own(module.model.rotary_emb, keeps)
    return wrap(module, tiny.tokenizer(), name="own")


def test_a_rotary_embedding_that_is_unknown_is_found_by_trying() -> None:
    model = own(keeps=False)
    limit = model.once(Trials).frequency_limit(40)
    assert limit is not None
    assert (limit.after, limit.stepped) == (LIMIT, True)
    assert model.once(Trials).frequency_limit(LIMIT) is None
    problem = LanguageProblem(model, TASK, sites=["head_output"], holdout=0)
    words = tiny.tokenizer()
    for i, pair in enumerate(TASK.pairs):
        for a, answer in enumerate(pair.answers):
            prompt, tokens = words(pair.base)["input_ids"], words(answer)["input_ids"]
            with torch.no_grad():
                log_p = model.module(input_ids=torch.tensor([prompt + tokens[:-1]])).logits[0].log_softmax(-1)
            expected = sum(log_p[len(prompt) - 1 + j, token].item() for j, token in enumerate(tokens))
            assert problem.training.scorer.base[i, a].item() == pytest.approx(expected, abs=1e-9)
    assert selfcheck.check(model, sites=["head_output"]).ok


def test_one_that_remembers_longer_rows_fails_the_check() -> None:
    report = selfcheck.check(own(keeps=True), sites=["head_output"])
    assert not report.ok
    assert "depend" in report.reason


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_ordinary_models_have_no_limit(family: str) -> None:
    assert tiny.model(family).once(Trials).frequency_limit(60) is None
    assert not tiny.model(family).growing_frequencies


def test_dynamic_frequencies_are_those_of_the_formula() -> None:
    """What a row of 18 tokens alone sees, in closed form: base * (factor * 18 / 12 - (factor - 1)) ** (d / (d - 2))."""
    model = wrap(module_of("dynamic"), tiny.tokenizer(), name="dynamic")
    problem = LanguageProblem(model, pairs([(5, 1), (30, 1), (18, 1)]), sites=["head_output"], holdout=0)
    base = 100.0 * (4 * 18 / LIMIT - 3) ** (HEAD / (HEAD - 2))
    expected = [base ** (-2 * i / HEAD) for i in range(HEAD // 2)]
    seen: dict[int, Tensor] = {}
    rotary: Any = model.module.model.rotary_emb
    rotary.register_forward_hook(
        lambda m, _, kwargs, __: seen.update({int(kwargs["position_ids"].max()) + 1: m.inv_freq.clone()}),
        with_kwargs=True,
    )
    _ = problem.scores(torch.zeros(12))
    assert seen[18].tolist() == pytest.approx(expected, rel=1e-5)
    assert math.isclose(seen[5][1].item(), 100.0 ** (-2 / HEAD), rel_tol=1e-5)
