"""A selection at work: scores against the problem's own runs, generation against the folded weights, and restoring."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import cotrace as ct
from cotrace.editing import folded
from cotrace.editing.generation import left_padded
from cotrace.editing.scoring import ScoredTask
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from tests.editing.models import ids, log_p, tiny
from tests.tiny import task

NAMES = ["L0.head1", "L1.head2", "L0.neuron5", "L1.coord3"]
SELECTION = ct.Selection.parse(NAMES)
ROWS = ((5, 9, 33), (7, 21, 4, 40, 11, 2), (50,), (8, 8, 31, 30))
NEW = 6


def generated(
    model: LanguageModel, rows: tuple[tuple[int, ...], ...], *, cache: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [row, new] and the logits that chose them [row, new, token]; greedy, left-padded, end ignored."""
    tokens, mask = left_padded(rows, pad=1)
    how = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, use_cache=cache, pad_token_id=1, eos_token_id=None,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    found = model.module.generate(input_ids=tokens, attention_mask=mask, generation_config=how)
    return found.sequences[:, tokens.shape[1] :], torch.stack(found.logits, 1)


@pytest.mark.filterwarnings("ignore:.* holds .*:UserWarning")
@pytest.mark.parametrize("donor", ["zero", "scale=0.3", "mean=task"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_are_those_of_a_problem_whose_donors_act_on_answers_too(family: str, donor: str) -> None:
    model, pairs = tiny(family), task()
    problem = ct.LanguageProblem(
        model, pairs, sites=["head_output", "mlp_neuron", "mlp_coordinate"], donors=donor, holdout=0,
        positions="prompt+answer",
    )  # fmt: skip
    part = ScoredTask(model, pairs)
    before = part.scores()
    with ct.apply(model, SELECTION, donor, reference=pairs):
        after = part.scores()
    torch.testing.assert_close(after, problem.scores(SELECTION), rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-2
    assert torch.equal(part.scores(), before), "restored"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_generation_is_that_of_the_folded_weights_with_and_without_a_cache(family: str, cache: bool) -> None:
    """Every prompt and generated position takes the donor, whatever stands to the left."""
    model = tiny(family)
    weights = folded(model, SELECTION, "scale=-0.5")
    with ct.apply(model, SELECTION, "scale=-0.5"):
        tokens, logits = generated(model, ROWS, cache=cache)
    expected_tokens, expected_logits = generated(weights, ROWS, cache=cache)
    _, plain = generated(model, ROWS, cache=cache)
    assert torch.equal(tokens, expected_tokens)
    assert (logits[:, 0] - plain[:, 0]).abs().max() > 1e-2, "the edit does something"
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cache", [True, False])
def test_a_row_generates_alone_what_it_generates_in_company(cache: bool) -> None:
    model = tiny("llama")
    with ct.apply(model, SELECTION, "zero"):
        together, _ = generated(model, ROWS, cache=cache)
        alone = [generated(model, (row,), cache=cache)[0] for row in ROWS]
    assert torch.equal(together, torch.cat(alone))


def test_the_edited_value_reaches_generated_positions() -> None:
    """What enters the projection of a zeroed head is 0 at every position of every step of a cached generation."""
    model, seen = tiny("llama"), []
    projection = model.module.model.layers[0].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda module, args: seen.append(args[0][..., 8:16].abs().max()))
    with ct.apply(model, ct.Selection.parse(["L0.head1"]), "zero"):
        generated(model, ROWS, cache=True)
    handle.remove()
    assert len(seen) == NEW
    assert max(seen) == 0


def test_everything_is_restored_also_after_an_error() -> None:
    model = tiny("llama")
    before, implementation = log_p(model.module, ids()), model.module.config._attn_implementation
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules())
    with pytest.raises(IndexError), ct.apply(model, SELECTION):
        log_p(model.module, ids() + 1000)
    with ct.apply(model, SELECTION):
        pass  # nothing ran, and that is no error
    assert sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()) == hooks
    assert model.module.config._attn_implementation == implementation
    assert torch.equal(log_p(model.module, ids()), before)


@pytest.mark.parametrize("first", ["zero", "scale=0.3"])
def test_two_that_are_left_in_the_order_of_entry_leave_the_model_as_it_was(first: str) -> None:
    """A notebook may enter and leave them by hand; the one still in force acts on."""
    model, heads = tiny("llama"), (ct.Selection.parse(["L0.head1"]), ct.Selection.parse(["L1.head0"]))
    before, implementation = log_p(model.module, ids()), model.module.config._attn_implementation
    with ct.apply(model, heads[1], "zero"):
        alone = log_p(model.module, ids())
    one, other = ct.apply(model, heads[0], first), ct.apply(model, heads[1], "zero")
    one.__enter__()
    other.__enter__()
    assert not torch.equal(log_p(model.module, ids()), alone)
    one.__exit__(None, None, None)
    assert torch.equal(log_p(model.module, ids()), alone)
    other.__exit__(None, None, None)
    assert model.module.config._attn_implementation == implementation
    assert torch.equal(log_p(model.module, ids()), before)


@pytest.mark.parametrize("donor", ["counterfactual", "resample", "noise=0.4", "mean=position"])
def test_donors_without_a_value_at_generated_positions_are_refused_with_the_reason(donor: str) -> None:
    with pytest.raises(InputError, match="does not stand alone: "), ct.apply(tiny("llama"), SELECTION, donor):
        pass


def test_experts_take_the_donor_at_run_time() -> None:
    """Zeroing every expert leaves nothing of the experts' module."""
    model = tiny("mixtral")
    place = model.places(ct.Site.EXPERT)[0]
    everything = ct.Selection.parse([f"L0.expert{i}" for i in range(place.units)])
    with ct.apply(model, everything, "zero"):
        seen = []
        handle = place.module.register_forward_hook(lambda module, args, output: seen.append(output.abs().max()))
        log_p(model.module, ids())
        handle.remove()
    assert max(seen) < 1e-5
