"""Every donor source against an answer computed by hand: plain transformers, one pair at a time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig

import cotrace as ct
from cotrace.donors import Mean, Noise, Vector, donor_source, donor_words
from cotrace.donors.noise import embedding_std
from cotrace.errors import AlignmentError, CotraceError, InputError, UnsupportedSite
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from tests import tiny

CHOSEN = ["L1.neuron3", "L1.neuron40", "L1.neuron41"]
UNITS = [3, 40, 41]
Replace = Callable[[Tensor, int, int], Tensor]
"""(own values [pos, unit], example, prompt length) -> what stands in their stead."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.model("gpt2")


def down(model: LanguageModel) -> nn.Module:
    module: nn.Module = model.module.transformer.h[1].mlp.c_proj
    return module


def ids(model: LanguageModel, text: str) -> list[int]:
    found: list[int] = model.require_tokenizer()(text)["input_ids"]
    return found


def neurons(model: LanguageModel, tokens: list[int], noise: Tensor | None = None) -> Tensor:
    """The chosen hidden neurons in a plain run, [pos, unit]."""
    seen: list[Tensor] = []
    handle = down(model).register_forward_pre_hook(lambda module, args: seen.append(args[0][0][:, UNITS].clone()))
    embeddings = model.module.get_input_embeddings()(torch.tensor([tokens]))
    with torch.no_grad():
        model.module(inputs_embeds=embeddings if noise is None else embeddings + noise)
    handle.remove()
    return seen[0]


def by_hand(model: LanguageModel, task: Task, instead: Replace) -> Tensor:
    """Scores of every answer with the chosen neurons replaced on prompt positions."""
    table = torch.zeros(len(task), 2, dtype=torch.float64)
    for e, pair in enumerate(task.pairs):
        prompt = ids(model, pair.base)

        def hook(module: nn.Module, args: Any, e: int = e, n: int = len(prompt)) -> tuple[Tensor]:
            own = args[0].clone()
            own[0, :n, UNITS] = instead(own[0, :n, UNITS], e, n)
            return (own,)

        for a, answer in enumerate(pair.answers):
            tokens = ids(model, answer)
            handle = down(model).register_forward_pre_hook(hook)
            with torch.no_grad():
                logits = model.module(input_ids=torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
            handle.remove()
            table[e, a] = sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))
    return table


def scores(model: LanguageModel, task: Task, donors: object) -> Tensor:
    problem = LanguageProblem(model, task, sites=["mlp_neuron"], holdout=0, donors=donors, direction="maximise")  # type: ignore[arg-type]
    found: Tensor = problem.scores(CHOSEN)
    assert (found - problem.training.scorer.base).abs().max() > 1e-4, "the patch does something"
    return found


def test_zero_and_scale(model: LanguageModel) -> None:
    task = tiny.task()
    assert torch.allclose(scores(model, task, "zero"), by_hand(model, task, lambda own, e, n: 0 * own), atol=1e-9)
    assert torch.allclose(
        scores(model, task, "scale=0.3"), by_hand(model, task, lambda own, e, n: 0.3 * own), atol=1e-9
    )
    negative = scores(model, task, "scale=0")
    assert torch.allclose(negative, scores(model, task, "zero"), atol=1e-12)


def test_mean_pooled_and_by_position(model: LanguageModel) -> None:
    task = tiny.task()
    runs = [neurons(model, ids(model, pair.base)) for pair in task.pairs]
    pooled = torch.cat(runs).mean(0)
    expected = by_hand(model, task, lambda own, e, n: pooled.expand_as(own))
    assert torch.allclose(scores(model, task, "mean=task"), expected, atol=1e-9)
    longest = max(map(len, runs))
    at = torch.stack([torch.stack([run[i] for run in runs if len(run) > i]).mean(0) for i in range(longest)])
    expected = by_hand(model, task, lambda own, e, n: at[:n])
    assert torch.allclose(scores(model, task, "mean=position"), expected, atol=1e-9)


def test_mean_over_a_reference_of_the_users_own(model: LanguageModel) -> None:
    task, other = tiny.task(), tiny.task(4, seed=9)
    reference = LanguageProblem(model, other, sites=["mlp_neuron"], holdout=0, direction="maximise").encoding.pairs
    own_runs = tuple(replace(pair, donor=()) for pair in reference)
    pooled = torch.cat([neurons(model, ids(model, pair.base)) for pair in other.pairs]).mean(0)
    expected = by_hand(model, task, lambda own, e, n: pooled.expand_as(own))
    assert torch.allclose(scores(model, task, Mean(reference=own_runs)), expected, atol=1e-9)


def test_noise_is_fixed_by_pair_and_seed_and_can_be_given(model: LanguageModel) -> None:
    task = tiny.task()
    generator = torch.Generator().manual_seed(3)
    tensors = {p.id: torch.randn(len(p.base.split()), 32, generator=generator).double() for p in task.pairs}
    runs = [neurons(model, ids(model, p.base), tensors[p.id]) for p in task.pairs]
    expected = by_hand(model, task, lambda own, e, n: runs[e])
    assert torch.allclose(scores(model, task, Noise(tensors=tensors)), expected, atol=1e-9)
    one, two, other = (scores(model, task, Noise(std=0.5, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    turned = replace(task, pairs=task.pairs[::-1])
    assert torch.allclose(scores(model, turned, Noise(std=0.5, seed=1)).flip(0), one, atol=1e-9)


def test_noise_on_one_role_leaves_the_tokens_before_it(model: LanguageModel) -> None:
    pairs = [replace(p, spans={"subject": (0, len(p.base.split()[0]))}) for p in tiny.task().pairs]
    task = replace(tiny.task(), pairs=tuple(replace(p, spans={"subject": _word(p.base, 2)}) for p in pairs))
    problem = LanguageProblem(
        model, task, sites=["mlp_neuron"], holdout=0, donors="noise=3x@subject", direction="maximise"
    )
    recorded = problem.training.scorer.donors
    for pair, start in zip(problem.encoding.pairs, recorded.starts.tolist(), strict=True):  # type: ignore[attr-defined]
        values = next(v for place, v in recorded.values.items() if place.layer == 1)  # type: ignore[attr-defined]
        clean = neurons(model, list(pair.prompt))
        noisy = values[start : start + len(pair.prompt), UNITS]
        assert torch.allclose(noisy[:2], clean[:2], atol=1e-9)
        assert (noisy[2] - clean[2]).abs().max() > 1e-3


def _word(text: str, index: int) -> tuple[int, int]:
    words = text.split()
    start = len(" ".join(words[:index])) + 1
    return start, start + len(words[index])


def test_resample_swaps_in_another_base_run_of_equal_length(model: LanguageModel) -> None:
    task = tiny.task(9)
    problem = LanguageProblem(model, task, sites=["mlp_neuron"], holdout=0, donors="resample=4", direction="maximise")
    for encoded in problem.encoding.pairs:
        assert encoded.donor != encoded.prompt
        assert len(encoded.donor) == len(encoded.prompt)
        assert encoded.donor in [tuple(ids(model, pair.base)) for pair in task.pairs]
    runs = [neurons(model, list(encoded.donor)) for encoded in problem.encoding.pairs]
    expected = by_hand(model, task, lambda own, e, n: runs[e])
    assert torch.allclose(problem.scores(CHOSEN), expected, atol=1e-9)


def test_resample_refuses_a_prompt_without_a_partner(model: LanguageModel) -> None:
    with pytest.warns(match="2 of 4 pairs refused; the first: pair p1: the search sees no other prompt of 5 tokens"):
        problem = LanguageProblem(
            model, tiny.task(4), sites=["head_output"], holdout=0, donors="resample=1", direction="maximise"
        )
    assert [refusal.id for refusal in problem.refused] == ["p1", "p2"]  # of lengths 4 5 6 4


def test_vector_of_the_users_own(model: LanguageModel) -> None:
    task = tiny.task()
    given = {f"L{layer}.neuron{unit}": torch.tensor([0.0]) for layer in range(3) for unit in range(128)}
    given |= {name: torch.tensor([float(i)]) for i, name in enumerate(CHOSEN)}
    expected = by_hand(model, task, lambda own, e, n: torch.arange(3.0).double().expand_as(own))
    assert torch.allclose(scores(model, task, Vector(values=given)), expected, atol=1e-9)


@pytest.mark.parametrize("donors", ["zero", "mean=task", "mean=position", "scale=0.5"])
def test_patterns_take_only_rows_that_sum_to_one(model: LanguageModel, donors: str) -> None:
    with pytest.raises(UnsupportedSite, match="rows that sum to 1"):
        LanguageProblem(model, tiny.task(), sites=["attention_pattern"], donors=donors, direction="maximise")


@pytest.mark.parametrize("donors", ["counterfactual", "noise=0.5", "zero", "mean=task", "resample", "scale=0.5"])
def test_every_source_is_soft(model: LanguageModel, donors: str) -> None:
    problem = LanguageProblem(
        model, tiny.task(9), sites=["head_output"], holdout=0, donors=donors, direction="maximise"
    )
    z = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    gradient = problem.gradient(z)
    for i in (0, 5, 11):
        e = torch.zeros(12, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-5)
        assert gradient[i].item() == pytest.approx(
            ((problem.value(z + e) - problem.value(z - e)) / 2e-5).item(), abs=1e-7
        )


@pytest.mark.parametrize(
    ("donors", "error", "words"),
    [
        ("zeros", CotraceError, "did you mean 'zero'"),
        ("mean", InputError, "needs a reference set"),
        ("noise", InputError, "noise=0.6"),
        ("noise=-1", InputError, "noise=0.6"),
        ("vector", InputError, "needs tensors"),
        ("scale=x", InputError, "factor"),
        ("zero=1", InputError, "takes no value"),
        ("resample=x", InputError, "whole number"),
    ],
)
def test_a_bad_source_is_one_clear_line(donors: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        donor_source(donors)


def test_bad_vectors_and_noise(model: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"no tensor for L0\.neuron0"):
        LanguageProblem(model, tiny.task(), sites=["mlp_neuron"], donors=Vector(values={}), direction="maximise")
    given = {f"L{layer}.head{unit}": torch.zeros(3) for layer in range(3) for unit in range(4)}
    with pytest.raises(InputError, match=r"has shape \[3\], not \[8\]"):
        LanguageProblem(model, tiny.task(), sites=["head_output"], donors=Vector(values=given), direction="maximise")
    with pytest.raises(InputError, match="no noise tensor"):
        LanguageProblem(model, tiny.task(), sites=["head_output"], donors=Noise(tensors={}), direction="maximise")
    with pytest.raises(InputError, match="one of std"):
        Noise(std=1.0, multiple=2.0)


def test_no_partner_at_all(model: LanguageModel) -> None:
    with pytest.raises(AlignmentError, match="no two prompts"):
        LanguageProblem(model, tiny.task(3), sites=["head_output"], donors="resample", holdout=0, direction="maximise")


def test_draws_average_effects_not_activations(model: LanguageModel) -> None:
    source = Noise(std=0.5, seed=7, draws=3)
    options = {"sites": ["mlp_neuron"], "holdout": 0, "metric": "odds_ratio"}
    together = LanguageProblem(model, tiny.task(), donors=source, **{"direction": "maximise", **options})  # type: ignore[arg-type]
    single = [
        LanguageProblem(model, tiny.task(), donors=draw, **{"direction": "maximise", **options})
        for draw in source.each_draw()
    ]  # type: ignore[arg-type]
    assert len({problem.donors.seed for problem in single}) == 3  # type: ignore[union-attr]
    z = torch.linspace(0, 1, 384, dtype=torch.float64)
    mean = torch.stack([problem.effects(z) for problem in single]).mean(0)
    assert torch.allclose(together.effects(z), mean, atol=1e-12)
    slope = torch.stack([problem.gradient(z) for problem in single]).mean(0)
    assert torch.allclose(together.gradient(z), slope, atol=1e-12)
    assert together.full_swap.mean == pytest.approx(sum(problem.full_swap.mean for problem in single) / 3)
    assert together.cost.forward_equivalents == pytest.approx(sum(p.cost.forward_equivalents for p in single))


def test_faithfulness_with_several_draws_is_a_ratio_of_averages(model: LanguageModel) -> None:
    """Effects of swaps, which are single draws' own, averaged over draws and then divided once."""
    source = Noise(std=0.5, seed=7, draws=3)
    options = {"sites": ["head_output"], "holdout": 0, "metric": "odds_ratio"}
    keep = LanguageProblem(model, tiny.task(), donors=source, mode="keep", **options)  # type: ignore[arg-type]
    single = [LanguageProblem(model, tiny.task(), donors=draw, **options) for draw in source.each_draw()]  # type: ignore[arg-type]
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    full = torch.stack([problem.effects(torch.ones(12)) for problem in single]).mean(0)

    def effects(mask: torch.Tensor) -> torch.Tensor:
        return (full - torch.stack([problem.effects(mask) for problem in single]).mean(0)) / full.mean()

    assert torch.allclose(keep.effects(z), effects(z), atol=1e-12)
    assert keep.effects(["L1.head2"]).tolist() == pytest.approx(
        effects(1 - torch.eye(12, dtype=torch.float64)[6]).tolist(), abs=1e-12
    )
    step = 1e-5 * torch.eye(12, dtype=torch.float64)
    slopes = [(effects(z + row) - effects(z - row)).mean() / 2e-5 for i, row in enumerate(step) if 0 < i < 11]
    assert torch.allclose(keep.gradient(z)[1:11], torch.stack(slopes), atol=1e-7)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_the_gradient_of_an_objective_is_that_of_effects_averaged_over_draws(model: LanguageModel, mode: str) -> None:
    options = {"sites": ["head_output"], "holdout": 0, "metric": "odds_ratio", "mode": mode}
    problem = LanguageProblem(model, tiny.task(), donors=Noise(std=0.5, seed=7, draws=3), **options)  # type: ignore[arg-type]
    z = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    some = [3, 0, 4]

    def value(mask: torch.Tensor) -> torch.Tensor:
        return (1 / (3 + problem.effects(mask, some))).sum() / problem.size * (problem.size / len(some))

    step = 1e-5 * torch.eye(12, dtype=torch.float64)
    slopes = torch.stack([(value(z + row) - value(z - row)) / 2e-5 for row in step])
    found = problem.gradient(z, lambda effects: 1 / (3 + effects), some)
    assert torch.allclose(found, slopes, atol=1e-7)
    before = problem.cost.forward_equivalents
    problem.gradient(z, lambda effects: 1 / (3 + effects))
    assert problem.cost.forward_equivalents - before == pytest.approx(9)


def test_levels_under_the_full_swap_are_averaged_over_draws(model: LanguageModel) -> None:
    source = Noise(std=0.5, seed=7, draws=3)
    options = {"sites": ["mlp_output"], "holdout": 0, "metric": "accuracy"}
    together = LanguageProblem(model, tiny.task(), donors=source, **options)  # type: ignore[arg-type]
    single = [LanguageProblem(model, tiny.task(), donors=draw, **options) for draw in source.each_draw()]  # type: ignore[arg-type]
    hard = [problem.reported(torch.ones(3)).item() for problem in single]
    assert together.full_swap.reported is not None
    assert together.full_swap.reported[1] == pytest.approx(sum(hard) / 3)


def test_a_multiple_of_the_embeddings_std_is_of_what_enters_the_first_layer() -> None:
    """Gemma multiplies the table's rows by the square root of the width, so its embeddings are as much wider."""
    size = {**tiny.LLAMA, "head_dim": 8, "layer_types": ["full_attention"] * 3}
    module = AutoModelForCausalLM.from_config(Gemma3TextConfig(**size)).double().eval()
    words = torch.arange(tiny.VOCABULARY)
    entering = module.get_input_embeddings()(words)
    table = module.get_input_embeddings().weight
    assert torch.allclose(entering.std() / table.std(), torch.tensor(32.0).double().sqrt(), rtol=1e-3)
    assert embedding_std(wrap(module, tiny.tokenizer(), name="gemma")) == pytest.approx(entering.std().item(), rel=1e-3)
    plain = tiny.model("gpt2")
    assert embedding_std(plain) == pytest.approx(plain.module.get_input_embeddings().weight.std().item(), rel=1e-6)


WORDS = "counterfactual noise=0.6 noise=3x@subject noise=0.6,draws=8,seed=1 zero mean=task mean=position resample"
WORDS += " resample=7 scale=0.2"


@pytest.mark.parametrize("words", WORDS.split())
def test_words_of_a_source_are_read_as_that_source(words: str) -> None:
    assert donor_words(words) == words
    assert donor_words(donor_source(words)) == words


def test_words_say_what_no_option_can() -> None:
    given = Vector(values={"L0.head1": torch.zeros(8)})
    assert donor_words(given) == "vector (given by the user)"
    assert donor_words(Noise(std=0.5, seed=2, draws=3)) == "noise=0.5,draws=3,seed=2"


def test_draws_seed_and_own_noise_as_text_are_those_of_python(model: LanguageModel, tmp_path: Path) -> None:
    """Effects under the text are those of the same source made in Python; two draws are not one."""
    task = tiny.task()

    def effects(donors: Any) -> Tensor:
        options = {"sites": ["mlp_neuron"], "holdout": 0, "direction": "maximise"}
        problem = ct.LanguageProblem(model, task, donors=donors, **options)
        return problem.effects(torch.ones(len(problem.space)))

    twice = effects("noise=0.5,draws=2,seed=3")
    assert torch.equal(twice, effects(Noise(std=0.5, draws=2, seed=3)))
    assert not torch.allclose(twice, effects("noise=0.5,seed=3"))
    width = model.module.get_input_embeddings().weight.shape[1]
    own = {p.id: torch.randn(len(p.base.split()), width, dtype=torch.float64) for p in task.pairs}
    save_file(own, tmp_path / "own.safetensors")
    assert torch.equal(effects(f"noise={tmp_path / 'own.safetensors'}"), effects(Noise(tensors=own)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("noise=0.5,drws=2", "did you mean 'draws'"),
        ("noise=0.5,draws=two", "draws is a whole number"),
        ("noise=nowhere.safetensors", "named by its id"),
        ("noise=own.safetensors,draws=2", "leave draws out"),
    ],
)
def test_noise_settings_that_are_none(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        donor_source(words)
