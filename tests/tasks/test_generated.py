"""Generated tasks: right answers, balance, same seed same pairs; and auto-circuit's IOI file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotrace.errors import InputError, UnknownName
from cotrace.prompts import Task
from cotrace.tasks import agreement, binding, factual_gender, greater_than, ioi

GENERATORS = [ioi, greater_than, agreement, binding, factual_gender]


@pytest.mark.parametrize("generate", GENERATORS)
def test_the_seed_decides(generate: Callable[..., Task]) -> None:
    assert generate(size=30, seed=5).pairs == generate(size=30, seed=5).pairs
    assert generate(size=30, seed=5).pairs != generate(size=30, seed=6).pairs
    assert len({pair.base for pair in generate(size=150).pairs}) > 140


@pytest.mark.parametrize("generate", GENERATORS)
def test_the_size(generate: Callable[..., Task]) -> None:
    assert len(generate(size=1)) == 1
    with pytest.raises(InputError, match="size is 0, must be at least 1"):
        generate(size=0)


def test_more_than_there_is() -> None:
    with pytest.raises(InputError, match=r"no more than \d+ different pairs can be generated; ask for a smaller size"):
        binding(desideratum="operation", size=100_000)


def test_ioi_answers_are_who_receives_and_who_gives() -> None:
    task = ioi(size=100)
    assert Counter(pair.group for pair in task.pairs) == {"ABBA": 50, "BABA": 50}
    for pair in task.pairs:
        receiver, giver = (answer.strip() for answer in pair.answers)
        assert (pair.base.count(giver), pair.base.count(receiver)) == (2, 1)
        assert pair.counterfactual is not None
        assert (pair.counterfactual.count(giver), pair.counterfactual.count(receiver)) == (1, 2)
        named = {role: pair.base[slice(*span)] for role, span in pair.spans.items()}
        assert named["giver"] == giver
        assert named["first" if pair.group == "ABBA" else "second"] == receiver
        assert pair.counterfactual[slice(*pair.counterfactual_spans["giver"])] == receiver


def test_ioi_with_new_names() -> None:
    for pair in ioi(size=50, counterfactual="new_names").pairs:
        assert not any(answer.strip() in (pair.counterfactual or "").split() for answer in pair.answers)
        assert pair.target_counterfactual is None
    with pytest.raises(UnknownName, match="unknown counterfactual 'flop': did you mean 'flip'"):
        ioi(counterfactual="flop")


def test_ioi_from_a_file(tmp_path: Path) -> None:
    prompt = {"clean": "Bo and Cy met; Cy told", "corrupt": "Di and Ed met; Fy told"}
    prompts = [
        {**prompt, "answers": [" Bo"], "wrong_answers": [" Cy"]},
        {**prompt, "answers": [" Bo", " Di"], "wrong_answers": [" Cy"]},
        {"clean": "x"},
    ]
    (tmp_path / "ioi_vanilla_template_prompts.json").write_text(json.dumps({"prompts": prompts}))
    task = ioi(tmp_path)
    (pair,) = task.pairs
    assert (pair.base, pair.counterfactual, pair.answers, pair.group) == (*prompt.values(), (" Bo", " Cy"), "ABBA")
    assert task.skipped == (
        ("prompt 2", "does not have one right and one wrong answer"),
        ("prompt 3", "has no 'corrupt'"),
    )


IOI_FILE = "ioi_vanilla_template_prompts.json"
IOI = {"clean": "Bo and Cy met; Cy told", "corrupt": "Di and Ed met", "answers": [" Bo"], "wrong_answers": [" Cy"]}
AGAIN = "; get the file again from UFO-101/auto-circuit"


def ioi_file(*records: object) -> str:
    return json.dumps({"prompts": [IOI, *records]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", f": holds no JSON object with a list 'prompts'{AGAIN}"),
        ("{}", f": holds no JSON object with a list 'prompts'{AGAIN}"),
        ('{"prompts": 3}', f": holds no JSON object with a list 'prompts'{AGAIN}"),
        ('{"prompts": []}', ": none of 0 records can be used"),
        ("{", ", line 1: not JSON"),
        ("[" * 200_000, ": nested too deeply"),
        (f'{{"prompts": [{"9" * 6000}]}}', ": holds a number of 6,000 digits"),
        ('{"prompts": [], "prompts": []}', ": the field 'prompts' stands twice in one object; keep one"),
        (ioi_file(3), f": prompts[1]: it is of type int, not an object with 'clean'{AGAIN}"),
        (
            ioi_file({**IOI, "answers": [3]}),
            f": prompts[1]: 'answers' is [3]; it must be a list of texts, such as [\" Paris\"]{AGAIN}",
        ),
        (
            ioi_file({**IOI, "answers": 3}),
            f": prompts[1]: 'answers' is 3; it must be a list of texts, such as [\" Paris\"]{AGAIN}",
        ),
        (ioi_file({**IOI, "answers": ""}), ": prompts[1]: 'answers' is ''; it must be a list of texts"),
        (
            ioi_file({**IOI, "clean": 3}),
            f": prompts[1]: 'clean' is 3; it must be a text that is not empty (token ids are not read){AGAIN}",
        ),
        (ioi_file({**IOI, "corrupt": None}), ": prompts[1]: 'corrupt' is None; it must be a text"),
        (
            ioi_file({**IOI, "wrong_answers": [" "]}),
            f": prompts[1]: one of its answers is blank; it must be a name{AGAIN}",
        ),
    ],
)
def test_ioi_from_a_bad_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / IOI_FILE).write_text(text)
    with pytest.raises(InputError) as caught:
        ioi(tmp_path)
    assert str(caught.value).startswith(IOI_FILE + message)
    assert "\n" not in str(caught.value)


def test_ioi_from_the_shared_file(shared: Callable[[str], Path]) -> None:
    task = ioi(shared("data/ioi"))
    assert (len(task), task.skipped) == (400, ())
    for pair in task.pairs:
        assert pair.base.count(pair.answers[1]) > pair.base.count(pair.answers[0])


def test_greater_than_has_one_year_on_either_side() -> None:
    for pair in greater_than(size=100).pairs:
        base, other = (
            re.fullmatch(r"The \w+ lasted .* (\d\d)(\d\d) to the year (\d\d)", text) for text in _prompts(pair)
        )
        assert base is not None
        assert other is not None
        assert base[1] == base[3] == other[1] == other[3]
        above, below = map(int, pair.answers)
        assert int(other[2]) < below < int(base[2]) < above
        assert pair.base[slice(*pair.spans["start"])] == base[1] + base[2]


def _prompts(pair: Any) -> tuple[str, str]:
    return pair.base, pair.counterfactual


def test_agreement_is_balanced_and_right() -> None:
    task = agreement(size=200)
    assert Counter(pair.group for pair in task.pairs) == {"singular": 100, "plural": 100}
    assert Counter((pair.group, pair.meta["distractor"]) for pair in task.pairs).most_common()[-1][1] == 50
    for pair in task.pairs:
        subject, other = (
            pair.base[slice(*pair.spans["subject"])],
            (pair.counterfactual or "")[slice(*pair.counterfactual_spans["subject"])],
        )
        plural = pair.answers[pair.target] == " are"
        assert subject.endswith("s") == plural
        assert other.endswith("s") != plural
        assert pair.answers[pair.target_counterfactual or 0] == (" is" if plural else " are")
        assert pair.base.replace(subject, other, 1) == pair.counterfactual


EXPRESSION = re.compile(r"x = (\d\d)\. y = (\d\d)\. x ([+-]) y =")


def computed(prompt: str | None) -> str:
    found = EXPRESSION.fullmatch(prompt or "")
    assert found is not None
    x, y = int(found[1]), int(found[2])
    return f" {x + y if found[3] == '+' else x - y}"


@pytest.mark.parametrize("desideratum", ["value", "operation"])
def test_binding_answers_are_computed(desideratum: str) -> None:
    for pair in binding(desideratum=desideratum, size=300).pairs:
        assert pair.answers == (computed(pair.base), computed(pair.counterfactual))
        assert pair.answers[0][1] != pair.answers[1][1]
        assert all(len(answer) == 3 for answer in pair.answers)
        differing = {
            role for role, span in pair.spans.items() if _at(pair.base, span) != _at(pair.counterfactual, span)
        }
        assert differing == ({"x", "y"} if desideratum == "value" else {"operation"})


def _at(text: str | None, span: tuple[int, int]) -> str:
    return (text or "")[slice(*span)]


@pytest.mark.parametrize(("desideratum", "digits"), [("value", 8), ("operation", 7)])
def test_binding_is_balanced_by_first_digit(desideratum: str, digits: int) -> None:
    size = 2 * digits * 10
    pairs = binding(desideratum=desideratum, size=size).pairs
    assert set(Counter((pair.group, pair.answers[0][1]) for pair in pairs).values()) == {10}
    assert len({pair.answers[0][1] for pair in pairs if pair.group == "plus"}) == digits


def test_binding_of_an_unknown_desideratum() -> None:
    with pytest.raises(UnknownName, match="unknown desideratum 'values': did you mean 'value'"):
        binding(desideratum="values")


def test_factual_gender_is_balanced_and_right() -> None:
    task = factual_gender(size=100)
    assert sum(pair.group == "female" for pair in task.pairs) == 50
    for pair in task.pairs:
        woman, man = pair.split_group.split("/")
        base, other = (woman, man) if pair.group == "female" else (man, woman)
        assert pair.base.replace(f" {base} ", f" {other} ") == pair.counterfactual
        assert pair.answers[pair.target] == (" she" if pair.group == "female" else " he")
        start, stop = pair.spans["subject"]
        assert pair.base[start:stop] == base == pair.subject
