"""WinoBias: the rule, the counts, the paper's pairs and the corrected ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotrace.errors import InputError, UnknownName
from cotrace.tasks import winobias

Shared = Callable[[str], Path]
Folder = Callable[..., Path]

LISTS: dict[str, str | bytes] = {
    "female_occupations.txt": "florist\nnanny",
    "male_occupations.txt": "pilot\nroad worker\n",
}
LINES = """1 [The pilot] thanked the florist because [he] was glad.
2 The pilot thanked [the florist] because [she] had helped.

3 The road worker paid [the nanny] for [her] time.
4 [The road worker] paid the nanny for [his] children.
5 [The pilot] met the nanny because [he] was lost.
6 The pilot met [the nanny] although [she] was late.
7 [The pilot] woke [him] and [she] left.
8 The pilot woke [the nanny] and [she] left.
9 [The pilot] saw the nanny before [he] rose.
10 The pilot saw [the nanny] before [her] bus came.
11 [The pilot] saw the nanny with [him].
12 The pilot saw [the nanny] with [her].
13 [The pilot] saw the baker and [he] ran.
14 The pilot saw [the baker] and [she] ran.
15 [The pilot] had no partner and [he] knew.
"""


@pytest.fixture
def small(folder: Folder) -> Path:
    return folder({**LISTS, "pro_stereotyped_type1.txt.dev": LINES})


def test_two_lines_become_one_pair(small: Path) -> None:
    pair = winobias(small).pairs[0]
    assert (pair.id, pair.base) == ("dev-001", "The pilot thanked the florist because she")
    assert pair.counterfactual == "The pilot thanked the florist because he"
    assert (pair.answers, pair.target, pair.target_counterfactual) == ((" had helped.", " was glad."), 0, 1)
    spans = {role: pair.base[slice(*span)] for role, span in pair.spans.items()}
    assert spans == {"female_occupation": "florist", "male_occupation": "pilot", "subject": "pilot", "pronoun": "she"}
    assert pair.counterfactual[slice(*pair.counterfactual_spans["pronoun"])] == "he"
    assert (pair.group, pair.split_group, pair.subject) == ("male occupation first", "florist/pilot", "pilot")
    assert pair.meta == {"female_occupation": "florist", "male_occupation": "pilot", "pronoun_case": "nominative"}


def test_possessive_pairs_differ_between_the_conventions(small: Path) -> None:
    corrected, paper = winobias(small).pairs[1], winobias(small, conventions="paper").pairs[1]
    assert (corrected.base, corrected.counterfactual) == (
        "The road worker paid the nanny for her",
        "The road worker paid the nanny for his",
    )
    assert (paper.base, paper.counterfactual) == (
        "The road worker paid the nanny for she",
        "The road worker paid the nanny for he",
    )
    assert corrected.answers == paper.answers == (" time.", " children.")
    assert corrected.meta["male_occupation"] == "road worker"


def test_what_is_left_out_is_listed_with_its_reason(small: Path) -> None:
    assert winobias(small).skipped == (
        ("lines 6-7", "the two lines differ before the pronoun"),
        ("lines 8-9", "line 8 marks 3 words, not one referent and one pronoun"),
        ("lines 10-11", "the two pronouns differ in case"),
        ("lines 12-13", "line 12 has the pronoun 'him', not she, he, her or his"),
        ("lines 14-15", "'pilot' and 'baker' are not one of each occupation list"),
        ("lines 16-16", "the last line has no partner"),
    )


@pytest.mark.parametrize(("split", "count", "possessive"), [("dev", 160, 6), ("test", 130, 5)])
def test_counts_of_the_benchmark(shared: Shared, split: str, count: int, possessive: int) -> None:
    task = winobias(shared("data/winobias"), split=split)
    assert len(task) == count
    assert len(task) + len(task.skipped) == 198
    assert Counter(pair.meta["pronoun_case"] for pair in task.pairs)["possessive"] == possessive
    assert (task.metric, task.score, task.encoding, task.conventions) == ("odds_ratio", "sum", "joint", "corrected")


def test_the_paper_conventions_give_the_papers_pairs(
    shared: Shared, oracle: Callable[[str], list[dict[str, Any]]]
) -> None:
    task = winobias(shared("data/winobias"), split="dev", conventions="paper")
    found = [
        {"base": p.base, "counterfactual": p.counterfactual, "cand_female": p.answers[0], "cand_male": p.answers[1]}
        for p in task.pairs
    ]
    assert found == oracle("tiny_winobias_dev_effects.json")
    assert (task.score, task.encoding, task.sites) == ("mean", "alone", ("attention_pattern",))


def test_only_possessive_pairs_are_corrected(shared: Shared) -> None:
    corrected, paper = (winobias(shared("data/winobias"), conventions=name) for name in ("corrected", "paper"))
    differing = [a for a, b in zip(corrected.pairs, paper.pairs, strict=True) if a.base != b.base]
    assert [pair.meta["pronoun_case"] for pair in differing] == ["possessive"] * 6


BAD = [
    ({}, "has no female_occupations.txt; get it from the authors' repository uclanlp/corefBias"),
    (LISTS, "has no pro_stereotyped_type1.txt.dev; get it from"),
    ({**LISTS, "pro_stereotyped_type1.txt.dev": ""}, "pro_stereotyped_type1.txt.dev: the file is empty"),
    ({**LISTS, "pro_stereotyped_type1.txt.dev": b"1 a\n2 \xff\n"}, "pro_stereotyped_type1.txt.dev:2: not UTF-8"),
    (
        {**LISTS, "pro_stereotyped_type1.txt.dev": "nothing\nmarked\n"},
        "none of 1 records can be used; the first, lines 1-2: line 1 marks 0 words",
    ),
]


@pytest.mark.parametrize(("files", "message"), BAD)
def test_bad_folders(folder: Folder, files: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(InputError) as caught:
        winobias(folder(files))
    assert message in str(caught.value)


def test_bad_arguments(small: Path) -> None:
    with pytest.raises(UnknownName, match="unknown split 'tset': did you mean 'test'"):
        winobias(small, split="tset")
    with pytest.raises(UnknownName, match="unknown conventions 'papers': did you mean 'paper'"):
        winobias(small, conventions="papers")
    with pytest.raises(InputError, match="does not exist; give the folder that holds"):
        winobias(small / "none")
    with pytest.raises(InputError, match="is a file; give the folder that holds"):
        winobias(small / "pro_stereotyped_type1.txt.dev")
