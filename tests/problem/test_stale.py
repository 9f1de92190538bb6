"""A model that was changed behind a problem's back: refused in one line, whatever was changed and however."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cotrace.editing import apply
from cotrace.errors import ModelError
from cotrace.models import LanguageModel, wrap
from cotrace.models.language_model import ModelState, _sample
from cotrace.problem import LanguageProblem
from cotrace.results import Selection
from tests import tiny


@pytest.fixture
def model() -> LanguageModel:
    return wrap(copy.deepcopy(tiny.model("llama").module), tiny.tokenizer(), name="mine")


def _weight(model: LanguageModel) -> nn.Parameter:
    found: nn.Parameter = model.module.model.layers[1].mlp.down_proj.weight
    return found


@torch.no_grad()
def _in_place(model: LanguageModel) -> None:
    _weight(model)[3] *= 2


def _step(model: LanguageModel) -> None:
    optimiser = torch.optim.SGD(model.module.parameters(), lr=1e-3)
    model.module(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimiser.step()


def _replaced(model: LanguageModel) -> None:
    model.module.lm_head = nn.Linear(32, tiny.VOCABULARY, bias=False, dtype=torch.float64)


def _other_activation(model: LanguageModel) -> None:
    model.module.model.layers[0].mlp.act_fn = nn.ReLU()


CHANGES: dict[str, tuple[Callable[[LanguageModel], object], str]] = {
    "in place": (_in_place, r"the weights model\.layers\.1\.mlp\.down_proj\.weight have changed"),
    "a row of data": (lambda m: _weight(m).data[5].mul_(1.5), "have changed"),
    "a column of data": (lambda m: _weight(m).data[:, 7].zero_(), "have changed"),
    "all of data": (lambda m: m.module.lm_head.weight.data.mul_(1.1), "have changed"),
    "a norm's data": (lambda m: m.module.model.norm.weight.data.add_(0.1), r"model\.norm\.weight have changed"),
    "data set": (lambda m: setattr(_weight(m), "data", _weight(m).data.clone()), "have changed"),
    "a training step": (_step, "have changed"),
    "state dict": (lambda m: m.module.load_state_dict(tiny.model("llama", seed=1).module.state_dict()), "changed"),
    "dtype": (lambda m: m.module.to(torch.float32), "was of type float64"),
    "module": (_replaced, "a module has been replaced"),
    "activation": (_other_activation, "a module has been replaced"),
    "attention": (lambda m: m.module.set_attn_implementation("eager"), "its attention implementation was sdpa"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_refused(model: LanguageModel, change: str) -> None:
    problem = LanguageProblem(model, tiny.task(), sites=["head_output"], holdout=0.3, audit=0.2)
    z = torch.full((len(problem.space),), 0.5, dtype=torch.float64)
    before = problem.effects(z)
    assert torch.equal(problem.effects(z), before)
    do, reason = CHANGES[change]
    do(model)
    heldout = problem.heldout
    assert heldout is not None
    for ask in (problem.effects, problem.value, problem.gradient, problem.scores, problem.reported, heldout.effects):
        with pytest.raises(ModelError, match=rf"mine is not as it was .*{reason}.*; make the problem anew") as refusal:
            ask(z)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ModelError, match="make the problem anew"):
        _ = problem.audit
    again = LanguageProblem(model, tiny.task(), sites=["head_output"], holdout=0.3, audit=0.2)
    again.effects(z)


def test_what_leaves_the_model_as_it_was_is_no_change(model: LanguageModel) -> None:
    """Gradients, modes, a selection that is applied and left again, another problem, a move to where it stands."""
    problem = LanguageProblem(model, tiny.task(), sites=["head_output", "attention_pattern"], holdout=0)
    z = torch.full((len(problem.space),), 0.5, dtype=torch.float64)
    before = problem.effects(z)
    model.module.train()
    model.module(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    model.module.to("cpu", torch.float64)
    LanguageProblem(model, tiny.task(), sites=["mlp_neuron"], holdout=0).value(torch.ones(144))
    with apply(model, Selection.parse(["L1.head2"])):
        model.module(input_ids=torch.tensor([[1, 2, 3]]))
    assert torch.equal(problem.effects(z), before)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1), (3, 4, 6), (48, 32), (60, 32), (2, 96)])
def test_a_sample_touches_every_row_and_column(shape: tuple[int, ...]) -> None:
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    seen = set(_sample(numbers).tolist())
    rows = numbers.reshape(-1, shape[-1])
    assert all(seen & set(row.tolist()) for row in rows)
    assert all(seen & set(column.tolist()) for column in rows.T)


def test_weights_that_are_offloaded_are_left_alone(model: LanguageModel) -> None:
    """They come for each pass and go again."""
    layer = model.module.model.layers[2]
    layer.mlp.up_proj.weight = nn.Parameter(layer.mlp.up_proj.weight.to("meta"))
    state = ModelState.of(model)
    layer.mlp.up_proj.weight = nn.Parameter(layer.mlp.up_proj.weight.to("meta"))
    state.check()
