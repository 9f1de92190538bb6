"""The list of tasks, loading by name, and the preview."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cotrace import tasks
from cotrace.errors import InputError, UnknownName
from cotrace.prompts import Task
from cotrace.tasks import TASKS, binding, load, named, preview, winobias


def test_every_task_says_what_it_is() -> None:
    for name, info in TASKS.items():
        assert info.name == name
        assert all((info.about, info.source, info.licence, info.size, info.metric))
        assert "\n" not in info.about
        assert bool(info.data) == (info.data_use != "none")
        assert inspect.unwrap(info.load) is inspect.unwrap(getattr(tasks, name))


def test_the_metric_of_the_list_is_the_tasks() -> None:
    for info in TASKS.values():
        if not info.needs_data and info.name != "counterfact":
            assert info.load().metric == info.metric
            assert info.load().name.startswith(info.name)


def test_importing_tasks_loads_no_torch() -> None:
    code = "import cotrace.tasks, sys; print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(UnknownName, match="unknown task 'winobais': did you mean 'winobias'"):
        named("winobais")


def test_a_path_is_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"base": "a", "answers": [" b"]}))
    task = load(str(file))
    assert (task.name, task.metric, task.conventions) == ("mine", "log_odds", "own")
    assert load("jsonl", data=file).pairs == load(file).pairs == task.pairs


def test_options_reach_the_task(shared: Callable[[str], Path]) -> None:
    data = shared("data/winobias")
    assert load("winobias", data=data, split="test", conventions="paper").name == "winobias-test"
    assert load("winobias", data=data) == winobias(data)
    assert load("binding", size=8, desideratum="operation").pairs == binding(size=8, desideratum="operation").pairs


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name_or_path": "winobias"}, "task winobias needs data: give data=PATH, the folder of pro_stereotyped"),
    ({"name_or_path": "professions"}, "task professions needs data: give data=PATH, the folder of templates.txt"),
    ({"name_or_path": "jsonl"}, "task jsonl needs data: give data=PATH, a JSON Lines file"),
    ({"name_or_path": "binding", "data": "x"}, "task binding takes no data; leave data=PATH out"),
    ({"name_or_path": "a.jsonl", "data": "x"}, "task a.jsonl is a file of your own, which takes no data folder"),
    ({"name_or_path": "a.jsonl", "split": "dev"}, "task jsonl has no option 'split'; it has metric"),
    ({"name_or_path": "winobias", "data": "x", "split": "tset"}, "unknown split 'tset': did you mean 'test'"),
    ({"name_or_path": "winogender", "data": "x", "split": "dev"}, "task winogender has no option 'split'; it has conv"),
    ({"name_or_path": "agreement", "conventions": "paper"}, "has no option 'conventions'; it has size, seed"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(**arguments)
    assert message in str(caught.value)


def test_preview_without_a_tokenizer_shows_the_texts() -> None:
    table = preview(binding(size=3), most=2)
    assert "binding-value: 3 pairs" in table.title
    assert [row[0] for row in table.rows] == ["0000", "", "", "", "0001", "", "", ""]
    assert [row[1] for row in table.rows[:4]] == ["base", "counterfactual", "answer 0, target", "answer 1"]


def test_preview_shows_tokens_and_alignment(shared: Callable[[str], Path]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared("models/tiny-gpt2"))
    rows = [
        {"id": "even", "base": "The cat sat", "counterfactual": "The dog sat", "answers": [" on", " down"]},
        {"id": "odd", "base": "The cat sat", "counterfactual": "The hairdresser sat", "answers": [" on"]},
    ]
    table = preview(Task.from_records(rows), tokenizer)
    assert table.rows[0] == ("even", "base", "3", "The| cat| sat")
    assert table.rows[2] == ("", "answer 0, target", "1", " on")
    assert table.rows[4] == ("", "alignment", "", "token by token; differing positions (from 0): 1")
    assert table.rows[-1][1] == "refused"
    assert table.rows[-1][3].startswith("pair odd: base has 3 tokens and counterfactual 6")


def test_preview_of_sentencepiece_tokens_keeps_their_spaces(shared: Callable[[str], Path]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared("models/stories260k"))
    table = preview(Task.from_records([{"base": "She was", "answers": [" the"]}]), tokenizer)
    assert table.rows[0][3] == "<s>| She| was"
    assert table.rows[2][3] == "no counterfactual: the donor needs none"


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def test_preview_renders_chats_and_pairs_them(shared: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models/tiny-gpt2"))
    tokenizer.chat_template = CHAT
    chats = [[{"role": "user", "content": f"Is the {who} here?"}] for who in ("cat", "dog")]
    task = Task.from_records([{"messages": chats[0], "counterfactual_messages": chats[1], "answers": ["Yes", "No"]}])
    plain = preview(task)
    assert [row[3] for row in plain.rows[:2]] == ["'user: Is the cat here?'", "'user: Is the dog here?'"]
    table = preview(task, tokenizer)
    rendered = [f"<user>Is the {who} here?\n<bot>" for who in ("cat", "dog")]
    pieces = [[tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]] for text in rendered]
    assert [row[1] for row in table.rows] == ["base", "counterfactual", "answer 0, target", "answer 1", "alignment"]
    assert [row[3] for row in table.rows[:2]] == ["|".join(row) for row in pieces]
    (place,) = [i for i, (a, b) in enumerate(zip(*pieces, strict=True)) if a != b]
    assert table.rows[-1][3] == f"token by token; differing positions (from 0): {place}"


def test_preview_aligns_as_it_is_asked(shared: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models/tiny-gpt2"))
    row = {"base": "The cat sat", "counterfactual": "The hairdresser sat", "answers": [" on"]}
    places = {"spans": {"who": [4, 7]}, "counterfactual_spans": {"who": [4, 15]}}
    task = Task.from_records([row | places])
    for align in ("ends", "spans"):
        table = preview(task, tokenizer, align=align)  # type: ignore[arg-type]
        assert table.rows[-1][3] == "2 of 3 positions; differing (from 0): none; not patched: 1"
    assert preview(task, tokenizer).rows[-1][1] == "refused"
    with pytest.raises(UnknownName, match="alignment 'end': did you mean 'ends'"):
        preview(task, tokenizer, align="end")  # type: ignore[arg-type]


def test_preview_of_nothing() -> None:
    with pytest.raises(InputError, match="most is 0: ask for at least 1 pair"):
        preview(binding(size=1), most=0)
