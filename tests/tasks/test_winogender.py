"""Winogender: the rule, the count, and which continuation counts as the female one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cotrace.errors import InputError, UnknownName
from cotrace.tasks import winogender

Shared = Callable[[str], Path]
Folder = Callable[..., Path]

HEADER = "occupation(0)\tother-participant(1)\tanswer\tsentence\n"
ROWS = """florist\tbuyer\t1\tThe $OCCUPATION told the $PARTICIPANT that $NOM_PRONOUN had paid enough.
florist\tbuyer\t0\tThe $OCCUPATION told the $PARTICIPANT that $NOM_PRONOUN was out of roses.
pilot\tguest\t0\tThe $PARTICIPANT asked the $OCCUPATION about $POSS_PRONOUN licence.
pilot\tguest\t1\tThe $PARTICIPANT asked the $OCCUPATION about $POSS_PRONOUN seat.
roofer\towner\t0\tThe $OCCUPATION greeted the $PARTICIPANT because $NOM_PRONOUN was polite.
roofer\towner\t1\tThe $OCCUPATION greeted the $PARTICIPANT and $NOM_PRONOUN smiled.
diver\towner\t0\tThe $PARTICIPANT paid the $OCCUPATION and thanked $ACC_PRONOUN twice.
diver\towner\t1\tThe $PARTICIPANT paid the $OCCUPATION and thanked $NOM_PRONOUN twice.
"""
STATS = "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\n" + "".join(
    f"{name}\t{bergsma}\t{bls}\t2015\n"
    for name, bergsma, bls in [("florist", 40, 80), ("pilot", 5, 8), ("roofer", 1, 2), ("diver", 3, 4)]
)
FILES: dict[str, str | bytes] = {"templates.tsv": HEADER + ROWS, "occupations-stats.tsv": STATS}


@pytest.fixture
def small(folder: Folder) -> Path:
    return folder(FILES)


def test_two_lines_become_one_item(small: Path) -> None:
    florist, pilot = winogender(small).pairs
    assert (florist.base, florist.counterfactual) == (
        "The florist told the buyer that she",
        "The florist told the buyer that he",
    )
    assert (pilot.base, pilot.counterfactual) == (
        "The guest asked the pilot about her",
        "The guest asked the pilot about his",
    )
    assert (florist.group, pilot.group) == ("mostly women", "mostly men")
    assert {role: pilot.base[slice(*span)] for role, span in pilot.spans.items()} == {
        "occupation": "pilot",
        "participant": "guest",
        "subject": "guest",
        "pronoun": "her",
    }


def test_the_occupations_continuation_is_the_female_one_where_most_are_women(small: Path) -> None:
    occupation, participant = " was out of roses.", " had paid enough."
    assert winogender(small).pairs[0].answers == (occupation, participant)
    assert winogender(small, conventions="paper", statistics="bls").pairs[0].answers == (occupation, participant)
    assert winogender(small, conventions="paper").pairs[0].answers == (participant, occupation)
    assert winogender(small, statistics="bergsma").pairs[0].answers == (participant, occupation)
    assert winogender(small).pairs[1].answers == (" seat.", " licence.")


def test_what_is_left_out_is_listed(small: Path) -> None:
    assert winogender(small).skipped == (
        ("lines 6-7 (roofer)", "the two sentences differ before the pronoun"),
        ("lines 8-9 (diver)", "needs two sentences with one pronoun each, nominative or possessive"),
    )


def test_the_papers_pronouns_are_she_and_he_everywhere(small: Path) -> None:
    pilot = winogender(small, conventions="paper").pairs[1]
    assert (pilot.base, pilot.counterfactual) == (
        "The guest asked the pilot about she",
        "The guest asked the pilot about he",
    )
    assert pilot.base[slice(*pilot.spans["pronoun"])] == "she"


@pytest.mark.parametrize(("conventions", "possessive"), [("corrected", 5), ("paper", 0)])
@pytest.mark.parametrize(("statistics", "women"), [("bls", 22), ("bergsma", 9), (None, None)])
def test_counts_of_the_benchmark(
    shared: Shared, conventions: str, possessive: int, statistics: str | None, women: int | None
) -> None:
    task = winogender(shared("data/winogender"), conventions=conventions, statistics=statistics)
    default = {"corrected": 22, "paper": 9}[conventions]
    assert len(task) == 44
    assert sum(pair.group == "mostly women" for pair in task.pairs) == (women or default)
    assert sum(pair.base.endswith(" her") for pair in task.pairs) == possessive


def test_the_rule_finds_the_filtered_items_in_the_unfiltered_file(shared: Shared, folder: Folder) -> None:
    data = shared("data/winogender")
    names = ("winogender_templates.tsv", "winogender_occupation_stats.tsv")
    whole = winogender(folder({name: (data / name).read_bytes() for name in names}))
    assert len(whole.skipped) == 60 - 44
    filtered = {pair.id for pair in winogender(data).pairs}
    # A misspelt word ("aiport") is mended in the filtered file only; the items are the same.
    assert {pair.id for pair in whole.pairs} == filtered


BAD = [
    ({}, "has no winogender_occupation_stats.tsv (or occupations-stats.tsv); get it from"),
    ({"occupations-stats.tsv": STATS}, "has no winogender_templates_structurefilter.tsv (or"),
    (
        {**FILES, "occupations-stats.tsv": STATS + "x\t1\n"},
        "occupations-stats.tsv:6: has 2 cells between tabs, needs 3",
    ),
    ({**FILES, "occupations-stats.tsv": STATS + "x\ta\tb\t\n"}, "occupations-stats.tsv:6: 'b' is not a percentage"),
    (
        {**FILES, "occupations-stats.tsv": STATS.replace("pilot", "x")},
        "the occupation 'pilot' is not in the statistics",
    ),
    ({**FILES, "templates.tsv": HEADER}, "none of 0 records can be used"),
]


@pytest.mark.parametrize(("files", "message"), BAD)
def test_bad_folders(folder: Folder, files: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(InputError) as caught:
        winogender(folder(files))
    assert message in str(caught.value)


def test_bad_statistics(small: Path) -> None:
    with pytest.raises(UnknownName, match="unknown statistics 'bsl': did you mean 'bls'"):
        winogender(small, statistics="bsl")
