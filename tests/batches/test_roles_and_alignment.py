"""Roles, alignment, answer positions and chats: which positions are patched, checked against hooks by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotrace.batches import encode_task
from cotrace.components import ComponentSpace
from cotrace.errors import AlignmentError, CotraceError, InputError
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair, Task
from tests import tiny

WIDTH = 8


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.model("gpt2")


def head_scores(model: LanguageModel, pair: PromptPair, at: list[tuple[int, int]], donor_text: str) -> list[float]:
    """Scores of each answer when L1.head2 takes the donor run's values at (own, donor) positions, by hand."""
    tokenizer, projection = model.require_tokenizer(), model.module.transformer.h[1].attn.c_proj
    seen: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model.module(input_ids=torch.tensor([tokenizer(donor_text)["input_ids"]]))
    handle.remove()

    def hook(module: nn.Module, args: Any) -> tuple[Tensor]:
        own = args[0].clone()
        for mine, theirs in at:
            own[0, mine, 2 * WIDTH : 3 * WIDTH] = seen[0][0, theirs, 2 * WIDTH : 3 * WIDTH]
        return (own,)

    prompt = tokenizer(pair.base)["input_ids"]
    found = []
    for answer in pair.answers:
        tokens = tokenizer(answer)["input_ids"]
        handle = projection.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        handle.remove()
        found.append(sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(tokens)))
    return found


PAIR = PromptPair(
    id="a",
    base="w1 w2 w3 w4 w5",
    counterfactual="w1 w9 w8 w4 w7",
    answers=(" w10 w11 w12", " w20"),
    spans={"subject": (3, 8)},
    counterfactual_spans={"subject": (3, 8)},
)
LONG = replace(PAIR, id="b", counterfactual="w1 w9 w8 w30 w4 w5", counterfactual_spans={"subject": (3, 12)})


def task(*pairs: PromptPair) -> Task:
    return Task(name="hand", pairs=pairs)


def test_a_component_of_a_role_is_patched_at_that_role_alone(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(PAIR), sites=["head_output"], roles=["last", "subject", "all"], holdout=0)
    assert len(problem.space) == 36
    for name, at in (
        ("L1.head2@last", [(4, 4)]),
        ("L1.head2@subject", [(1, 1), (2, 2)]),
        ("L1.head2", [(i, i) for i in range(5)]),
    ):
        expected = head_scores(model, PAIR, at, PAIR.counterfactual or "")
        assert problem.scores([name])[0].tolist() == pytest.approx(expected, abs=1e-9), name


def test_ends_patches_the_shared_head_and_tail_only(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(LONG), sites=["head_output"], align="ends", holdout=0)
    assert problem.encoding.pairs[0].donor_positions == (0, -1, -1, 4, 5)
    expected = head_scores(model, LONG, [(0, 0), (3, 4), (4, 5)], LONG.counterfactual or "")
    assert problem.scores(["L1.head2"])[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_spans_of_unequal_length_stay_and_the_rest_aligns(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(LONG), sites=["head_output"], align="spans", holdout=0)
    assert problem.encoding.pairs[0].donor_positions == (0, -1, -1, 4, 5)
    bad = replace(LONG, counterfactual="w1 w9 w8 w30 w4 w5 w6")
    with pytest.raises(AlignmentError, match="only the spans may differ"):
        LanguageProblem(model, task(bad), sites=["head_output"], align="spans", holdout=0)


EQUAL = replace(  # as many tokens in all, but the spans differ in length
    PAIR,
    id="e",
    counterfactual="w1 w9 w8 w30 w5",
    spans={"object": (9, 11), "subject": (3, 8)},
    counterfactual_spans={"subject": (3, 5), "object": (6, 12)},
)


def test_ends_patches_the_common_ends_at_equal_lengths_too(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(EQUAL), sites=["head_output"], align="ends", holdout=0)
    assert problem.encoding.pairs[0].donor_positions == (0, -1, -1, -1, 4)
    expected = head_scores(model, EQUAL, [(0, 0), (4, 4)], EQUAL.counterfactual or "")
    assert problem.scores(["L1.head2"])[0].tolist() == pytest.approx(expected, abs=1e-9)
    apart = replace(EQUAL, base="w1 w2", counterfactual="w2 w1", spans={}, counterfactual_spans={})
    with pytest.raises(AlignmentError, match="share no token at either end"):
        LanguageProblem(model, task(apart), sites=["head_output"], align="ends", holdout=0)


def test_spans_go_by_spans_at_equal_lengths_too(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(EQUAL), sites=["head_output"], align="spans", holdout=0)
    assert problem.encoding.pairs[0].donor_positions == (0, -1, -1, -1, 4)
    moved = replace(  # spans of one length each, text before and between them of the same: every token aligns
        EQUAL, spans={"subject": (3, 8), "object": (9, 11)}, counterfactual_spans={"object": (9, 12), "subject": (3, 8)}
    )
    problem = LanguageProblem(model, task(moved), sites=["head_output"], align="spans", holdout=0)
    assert problem.encoding.pairs[0].donor_positions == (0, 1, 2, 3, 4)
    swapped = replace(moved, counterfactual_spans={"object": (3, 5), "subject": (6, 12)})
    with pytest.raises(AlignmentError, match="stand in another order"):
        LanguageProblem(model, task(swapped), sites=["head_output"], align="spans", holdout=0)
    bare = replace(EQUAL, counterfactual_spans={})
    with pytest.raises(AlignmentError, match="needs 'spans' and 'counterfactual_spans'"):
        LanguageProblem(model, task(bare), sites=["head_output"], align="spans", holdout=0)


def test_a_role_without_a_donor_position_is_counted_and_said(model: LanguageModel) -> None:
    pairs = [PAIR, *(replace(EQUAL, id=f"e{i}") for i in range(3))]
    options = {"sites": ["head_output"], "roles": ["subject", "last", "all"], "holdout": 0}
    with pytest.warns(match="at role subject 3 of 4 pairs have no donor position: a swap there leaves them"):
        problem = LanguageProblem(model, task(*pairs), align="spans", **options)  # type: ignore[arg-type]
    assert problem.coverage.without_donor == {"subject": 3}
    assert "at role subject 3 of 4 pairs have no donor" in problem.summary
    assert "no donor at role subject" in str(problem.coverage.table())
    effects = problem.effects(["L1.head2@subject"])
    assert effects[0] != 0
    assert effects[1:].tolist() == [0, 0, 0]
    with pytest.warns(match=r"at role subject 4 of 4, at role last 1 of 4 pairs have no donor position"):
        LanguageProblem(model, task(*pairs), align="ends", **options)  # type: ignore[arg-type]


def test_a_role_that_stands_elsewhere_in_the_counterfactual_is_said_where_positions_align_one_by_one(
    model: LanguageModel,
) -> None:
    options = {"sites": ["head_output"], "roles": ["subject"], "holdout": 0}
    with pytest.warns(match=r"other words of the counterfactual stand at role subject in 1 of 2 pairs \(align='spans'"):
        problem = LanguageProblem(model, task(PAIR, EQUAL), **options)  # type: ignore[arg-type]
    assert problem.coverage.shifted == {"subject": 1}
    expected = head_scores(model, EQUAL, [(1, 1), (2, 2)], EQUAL.counterfactual or "")
    assert problem.scores(["L1.head2@subject"])[1].tolist() == pytest.approx(expected, abs=1e-9)


def test_pairs_of_other_lengths_are_refused_by_id_with_both_tokenisations(model: LanguageModel) -> None:
    with pytest.warns(match=r"1 of 2 pairs refused; the first: pair b: base has 5 tokens and counterfactual 6: w1\|w2"):
        problem = LanguageProblem(model, task(PAIR, LONG), sites=["head_output"], holdout=0)
    assert [refusal.id for refusal in problem.refused] == ["b"]
    assert "w30" in problem.refused[0].reason
    with pytest.raises(AlignmentError, match="pair b"):
        LanguageProblem(model, task(LONG), sites=["head_output"], holdout=0)


def test_answer_positions_take_the_donor_run_that_carries_the_same_answers(model: LanguageModel) -> None:
    problem = LanguageProblem(model, task(PAIR), sites=["head_output"], positions="prompt+answer", holdout=0)
    donor = (PAIR.counterfactual or "") + PAIR.answers[0]
    first = replace(PAIR, answers=PAIR.answers[:1])
    expected = head_scores(model, first, [(i, i) for i in range(7)], donor)[0]
    assert problem.scores(["L1.head2"])[0, 0].item() == pytest.approx(expected, abs=1e-9)
    prompt_only = LanguageProblem(model, task(PAIR), sites=["head_output"], holdout=0)
    assert problem.scores(["L1.head2"])[0, 0] != prompt_only.scores(["L1.head2"])[0, 0]


def test_a_role_that_the_pair_lacks_is_named(model: LanguageModel) -> None:
    with pytest.raises(AlignmentError, match="no role 'object': it has all, last, subject"):
        LanguageProblem(model, task(PAIR), sites=["head_output"], roles=["object"], holdout=0)


def test_a_pattern_of_a_role_is_patched_in_the_rows_of_its_queries(model: LanguageModel) -> None:
    whole = LanguageProblem(model, task(PAIR), sites=["attention_pattern"], holdout=0)
    last = LanguageProblem(model, task(PAIR), sites=["attention_pattern"], roles=["last"], holdout=0)
    everything = LanguageProblem(model, task(PAIR), sites=ComponentSpace.parse(["L2.pattern1@last"]), holdout=0)
    # in the last layer only the last query of the prompt reaches a one-token answer
    assert last.scores(["L2.pattern1@last"])[0, 1] == pytest.approx(
        whole.scores(["L2.pattern1"])[0, 1].item(), abs=1e-12
    )
    assert torch.allclose(everything.scores(["L2.pattern1@last"]), last.scores(["L2.pattern1@last"]))
    assert last.scores(["L0.pattern1@last"])[0, 1] != pytest.approx(
        whole.scores(["L0.pattern1"])[0, 1].item(), abs=1e-9
    )


LLAMA = (
    "{{ bos_token }}{% if date_string is defined %}D{{ date_string }} {% endif %}"
    "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% if enable_thinking is defined and not enable_thinking %}"
    "<think> </think>{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ m.role }} {{ m.content | trim }} {% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model{% endif %}"
)
TODAY = "{{ strftime_now('%Y') }} {% for m in messages %}{{ m.content }} {% endfor %}"


def chat(template: str | None, **roles: str) -> tuple[Any, Task]:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"bos_token": "w0"})
    messages = tuple({"role": role, "content": content} for role, content in roles.items())
    pair = PromptPair(id="c", messages=messages, counterfactual_messages=messages, answers=(" w3",))
    return tokenizer, task(pair)


@pytest.mark.parametrize("template", [LLAMA, QWEN])
def test_roles_of_a_chat_come_from_the_template(template: str) -> None:
    tokenizer, chats = chat(template, system="w5 w6", user="w7 w8 w9")
    encoded = encode_task(chats, tokenizer, paired=True, align="exact", roles=["system", "user", "last"]).pairs[0]
    words = tokenizer.convert_ids_to_tokens(list(encoded.prompt))
    assert [words[i] for i in encoded.roles["system"]] == ["w5", "w6"]
    assert [words[i] for i in encoded.roles["user"]] == ["w7", "w8", "w9"]
    assert encoded.roles["last"] == (len(words) - 1,)
    assert encoded.text.rstrip().endswith("assistant>" if template is LLAMA else "assistant")


def test_roles_of_a_chat_without_a_system_message() -> None:
    """Gemma's kind of template takes none, and calls the assistant the model."""
    tokenizer, chats = chat(GEMMA, user="w7 w8 w9")
    encoded = encode_task(chats, tokenizer, paired=True, align="exact", roles=["user", "last"]).pairs[0]
    words = tokenizer.convert_ids_to_tokens(list(encoded.prompt))
    assert [words[i] for i in encoded.roles["user"]] == ["w7", "w8", "w9"]
    assert encoded.roles["last"] == (len(words) - 1,)
    assert encoded.text.rstrip().endswith("<start_of_turn>model")
    with pytest.raises(AlignmentError, match="no role 'system': it has all, last, user"):
        encode_task(chats, tokenizer, paired=True, align="exact", roles=["system"])


def test_the_last_of_several_turns_is_the_users_and_the_models() -> None:
    tokenizer, chats = chat(GEMMA, user="w7 w8 w9")
    turns = [("user", "w7"), ("assistant", "w10 w11"), ("user", "w12 w13")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    pair = replace(chats.pairs[0], messages=messages, counterfactual_messages=messages)
    encoded = encode_task(task(pair), tokenizer, paired=True, align="exact", roles=["user", "assistant", "last"]).pairs[
        0
    ]
    words = tokenizer.convert_ids_to_tokens(list(encoded.prompt))
    assert [words[i] for i in encoded.roles["user"]] == ["w12", "w13"]
    assert [words[i] for i in encoded.roles["assistant"]] == ["w10", "w11"]
    assert encoded.roles["last"] == (len(words) - 1,)


def test_template_arguments_and_the_pinned_date() -> None:
    tokenizer, chats = chat(QWEN, user="w7")
    arguments = {"enable_thinking": False}
    encoded = encode_task(chats, tokenizer, paired=True, align="exact", template_arguments=arguments).pairs[0]
    assert "<think> </think>" in encoded.text
    tokenizer, chats = chat(TODAY, user="w7")
    assert encode_task(chats, tokenizer, paired=True, align="exact").pairs[0].text.startswith("2024 ")
    tokenizer, chats = chat(LLAMA, user="w7")
    assert "D26 Jul 2024" in encode_task(chats, tokenizer, paired=True, align="exact").pairs[0].text


def test_a_template_that_refuses_and_a_model_without_one() -> None:
    tokenizer, chats = chat(GEMMA, system="w5", user="w7")
    with pytest.raises(InputError, match="System role not supported"):
        encode_task(chats, tokenizer, paired=True, align="exact")
    tokenizer, chats = chat(None, user="w7")
    with pytest.raises(CotraceError, match="no chat template"):
        encode_task(chats, tokenizer, paired=True, align="exact")


def test_beginning_of_sequence_policies() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "w0"})
    plain = task(PAIR)
    auto, yes = (
        encode_task(plain, tokenizer, paired=True, align="exact", prepend_bos=bos).pairs[0].prompt  # type: ignore[arg-type]
        for bos in ("auto", "yes")
    )
    assert yes == (0, *auto)
    doubled = task(replace(PAIR, base="w0 w1", counterfactual="w0 w2", spans={}, counterfactual_spans={}))
    assert encode_task(doubled, tokenizer, paired=True, align="exact", prepend_bos="no").pairs[0].prompt == (1,)
    twice = task(replace(PAIR, base="w0 w0 w1", counterfactual="w0 w0 w2", spans={}, counterfactual_spans={}))
    with pytest.raises(InputError, match="doubled beginning-of-sequence"):
        encode_task(twice, tokenizer, paired=True, align="exact")


def test_answers_that_tokenise_to_nothing() -> None:
    with pytest.raises(AlignmentError, match="tokenises to nothing"):
        encode_task(task(replace(PAIR, answers=("",))), tiny.tokenizer(), paired=True, align="exact")


def test_answers_that_are_the_same_tokens_are_refused_by_pair(model: LanguageModel) -> None:
    """Nothing moves between them, so that every effect would be 0 and look like a finding."""
    pairs = [
        PromptPair(id=name, base="w3 w4", counterfactual="w5 w4", answers=answers)
        for name, answers in (("same", (" w1", " w1")), ("good", (" w1", " w2")), ("one", (" w1",)))
    ]
    task = Task(name="t", pairs=tuple(pairs))
    found = encode_task(task, model.require_tokenizer(), paired=True, align="exact")
    assert [refusal.id for refusal in found.refused] == ["same"]
    assert found.refused[0].reason.startswith("pair same: the answers ' w1' and ' w1' are the same tokens")
    assert [encoded.pair.id for encoded in found.pairs] == ["good", "one"]
