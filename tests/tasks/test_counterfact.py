"""CounterFact: the authors' form, the hub's form, and records that cannot be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cotrace.errors import InputError
from cotrace.tasks import counterfact
from cotrace.tasks._files import hub_rows

Folder = Callable[..., Path]


def rewrite(prompt: str, subject: str, true: str) -> dict[str, Any]:
    return {"prompt": prompt, "subject": subject, "target_true": {"str": true}, "target_new": {"str": "Lima"}}


RECORD = {"case_id": 7, "requested_rewrite": {**rewrite("Yes, {} lives in", "Ann Bo", "Oslo"), "relation_id": "P551"}}
ROW = {
    "relation_prefix": "Yes, ",
    "relation_suffix": " lives in",
    "subject": "Ann Bo",
    "target_true": " Oslo",
    "target_false": " Lima",
    "relation_id": "P551",
    "prompt": "Yes, Ann Bo lives in",
}


def written(folder: Folder, *records: object) -> Path:
    return folder({"counterfact.json": json.dumps(records)})


def test_a_record_becomes_a_pair(folder: Folder) -> None:
    task = counterfact(written(folder, RECORD))
    (pair,) = task.pairs
    assert (pair.id, pair.base, pair.answers) == ("7", "Yes, Ann Bo lives in", (" Oslo",))
    assert pair.counterfactual is None
    assert pair.base[slice(*pair.spans["subject"])] == pair.subject == pair.split_group == "Ann Bo"
    assert (pair.group, pair.meta["false_answer"]) == ("P551", "Lima")
    assert (task.metric, task.donors, task.encoding) == ("odds_ratio", "noise=0.6045", "joint")


@pytest.mark.parametrize(
    ("options", "answer", "encoding"),
    [
        ({"conventions": "paper"}, "Oslo", "alone"),
        ({"conventions": "paper", "leading_space": True}, " Oslo", "alone"),
        ({"leading_space": False}, "Oslo", "alone"),
    ],
)
def test_leading_space(folder: Folder, options: dict[str, Any], answer: str, encoding: str) -> None:
    task = counterfact(written(folder, RECORD), **options)
    assert (task.pairs[0].answers, task.encoding) == ((answer,), encoding)
    assert ("with leading space" in task.source) == answer.startswith(" ")


def test_records_that_cannot_be_used_are_listed(folder: Folder) -> None:
    broken = [
        {"requested_rewrite": {"prompt": "{} is"}},
        {"requested_rewrite": rewrite("It is", "x", "y")},
        {"requested_rewrite": rewrite("{} is", "", "y")},
        3,
        RECORD,
    ]
    assert counterfact(written(folder, RECORD, *broken)).skipped == (
        ("record 2", "has no 'subject'"),
        ("record 3", "its prompt has no place {} for the subject"),
        ("record 4", "its subject or its answer is empty"),
        ("record 5", "it is of type int, not an object"),
        ("record 6", "its id 7 stands twice"),
    )


def test_the_hubs_table_gives_the_same_pair(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, **options: Any) -> list[dict[str, str]]:
        asked.update(options, name=name)
        return [ROW]

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (pair,) = counterfact().pairs
    (read,) = counterfact(written(folder, {**RECORD, "case_id": 0})).pairs
    assert pair == read
    assert (asked["name"], len(asked["revision"]), asked["split"]) == ("NeelNanda/counterfact-tracing", 40, "train")


def test_without_the_package_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the package datasets: install cotrace\[hub\]"):
        counterfact()


def test_a_failing_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, **options: Any) -> None:
        raise ConnectionError("no route\nto host")

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(InputError, match=r"task t: a/b cannot be loaded from the hub \(no route\); check the network"):
        hub_rows("a/b", "0" * 40, task="t")


def test_the_shared_records(shared: Callable[[str], Path]) -> None:
    task = counterfact(shared("data/counterfact"))
    assert (len(task), task.skipped) == (72, ())
    assert all(pair.answers[0].startswith(" ") for pair in task.pairs)


BAD = [
    ("[{]", "counterfact.json, line 1: not JSON"),
    ("[" * 200_000, "counterfact.json: nested too deeply; it is a file of another kind (it comes from the authors'"),
    (f"[{'9' * 6000}]", "counterfact.json: holds a number of 6,000 digits"),
    ('[{"id": 1, "id": 2}]', "counterfact.json: the field 'id' stands twice in one object; keep one"),
    ("[NaN]", "counterfact.json: NaN is not a JSON number"),
    ("{}", "counterfact.json: holds no list of records"),
    ("[]", "counterfact.json: none of 0 records can be used"),
    ("[{}]", "none of 1 records can be used; the first, record 1: has no 'relation_prefix'"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_files(folder: Folder, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        counterfact(folder({"counterfact.json": text}))
    assert message in str(caught.value)
