"""Professions: order, counterfactuals and targets, and the paper's 2,703 pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotrace.errors import InputError
from cotrace.tasks import professions

FILES: dict[str, str | bytes] = {
    "templates.txt": "The {} slept.\nThe {} woke because\n",
    "male_occupations.txt": "pilot\nroofer\n",
    "female_occupations.txt": "florist",
}


def test_order_and_fields(folder: Callable[..., Path]) -> None:
    task = professions(folder(FILES))
    assert [pair.base for pair in task.pairs] == [
        "The pilot slept.",
        "The roofer slept.",
        "The pilot woke because",
        "The roofer woke because",
        "The florist slept.",
        "The florist woke because",
    ]
    assert [pair.counterfactual for pair in task.pairs[3:5]] == ["The woman woke because", "The man slept."]
    assert [(pair.target, pair.target_counterfactual) for pair in task.pairs[3:5]] == [(0, 1), (1, 0)]
    assert all(pair.answers == (" he", " she") for pair in task.pairs)
    assert (task.pairs[5].split_group, task.pairs[5].group, task.sites) == ("florist", "female", ("mlp_coordinate",))
    last = task.pairs[5]
    assert last.base[slice(*last.spans["subject"])] == "florist"
    assert (last.counterfactual or "")[slice(*last.counterfactual_spans["subject"])] == "man"


@pytest.mark.parametrize("conventions", ["paper", "corrected"])
def test_the_papers_pairs(
    shared: Callable[[str], Path], oracle: Callable[[str], list[dict[str, Any]]], conventions: str
) -> None:
    task = professions(shared("data/professions"), conventions=conventions)
    assert len(task) == 2703
    found = [{"base": p.base, "counterfactual": p.counterfactual, "gender": p.group} for p in task.pairs]
    assert found == oracle("tiny_professions_effects.json")


BAD = [
    ({**FILES, "templates.txt": "The {} slept.\nThe woke.\n"}, "templates.txt:2: the template needs one {}"),
    ({**FILES, "female_occupations.txt": " \n"}, "female_occupations.txt: the file is empty"),
    ({"templates.txt": "The {}"}, "has no male_occupations.txt; get it from"),
    ({**FILES, "male_occupations.txt": "pilot\npilot\n"}, "the id '01-pilot' stands twice"),
]


@pytest.mark.parametrize(("files", "message"), BAD)
def test_bad_folders(folder: Callable[..., Path], files: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(InputError) as caught:
        professions(folder(files))
    assert message in str(caught.value)
