"""What commands add to a finished run: whatever stands there, ``report``, ``cite``, ``figure`` say so in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cotrace.cli.main import run as cotrace
from cotrace.errors import CotraceError, InputError
from cotrace.report.page import EXAMPLES, Examples
from cotrace.runs.addenda import read_evaluation, read_tradeoff
from cotrace.runs.manifest import Manifest
from cotrace.text.files import parse_json
from tests.faults.readers import finished_run, tradeoff

CONTENTS = {
    "deep": ("[" * 200_000, "nested too deeply"),
    "list": ("[]", "it is a list, not an object"),
    "digits": (f'{{"k": {"9" * 6000}}}', "a number of 6,000 digits"),
    "double": ('{"k": 1, "k": 2}', "the field 'k' stands twice"),
    "text": ("\xff", "not JSON"),
    "empty": ("{}", "the field is missing"),
}
COMMANDS = {"report": ["report", "RUN"], "figure": ["figure", "RUN", "--kind", "map"], "cite": ["cite", "RUN"]}
READ = {"evaluation.json": ("report", "figure", "cite"), "tradeoff.json": ("report", "figure")}
CASES = [(file, command, kind) for file, commands in READ.items() for command in commands for kind in CONTENTS]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added") / "run"
    shutil.copytree(finished_run(), folder)
    return folder


@pytest.mark.parametrize(("file", "command", "kind"), CASES)
def test_one_line_names_the_file_and_what_to_do(
    stored: Path, capsys: pytest.CaptureFixture[str], file: str, command: str, kind: str
) -> None:
    before = (stored / file).read_bytes()
    content, reason = CONTENTS[kind]
    (stored / file).write_text(content, encoding="utf-8")
    Manifest.of(stored).write()
    try:
        words = [word.replace("RUN", str(stored)) for word in COMMANDS[command]]
        extra = ["--out", str(stored.parent / f"{command}.png")] if command == "figure" else []
        assert cotrace([*words, *extra, "--quiet"]) == 2
    finally:
        (stored / file).write_bytes(before)
        Manifest.of(stored).write()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(stored / file) in err
    assert reason in err
    assert f"{'evaluate' if file.startswith('e') else 'edit'} again" in err
    assert not (stored.parent / "figure.png").exists()


def test_whole_files_are_read_back(stored: Path) -> None:
    assert read_tradeoff(stored / "tradeoff.json") == tradeoff()
    found = read_evaluation(stored / "evaluation.json")
    assert (found.level, found.search, found.chosen.k) == ("quick", "topk", found.k)


def test_an_evaluation_of_a_size_that_it_does_not_hold_is_refused(stored: Path, tmp_path: Path) -> None:
    text = (stored / "evaluation.json").read_text()
    k = read_evaluation(stored / "evaluation.json").k
    (tmp_path / "evaluation.json").write_text(text.replace(f'"k": {k},\n "components"', '"k": 99,\n "components"'))
    with pytest.raises(InputError, match=r"k is 99, which is none of its sizes\); evaluate again"):
        read_evaluation(tmp_path / "evaluation.json")


@pytest.mark.parametrize(("old", "new"), [('"target":0', '"target":1e999'), ('"id":', '"id":"x","id":')])
def test_examples_with_numbers_out_of_range_or_double_keys_are_refused(stored: Path, old: str, new: str) -> None:
    content = (stored / EXAMPLES).read_text()
    assert old in content
    with pytest.raises(InputError, match=r"examples\.json.*delete it for a report without texts"):
        Examples.from_json(content.replace(old, new, 1).encode())


@pytest.mark.parametrize("text", ["1e999", '{"a": [-1e400]}'])
def test_a_number_beyond_what_can_be_held_is_no_infinity(text: str) -> None:
    with pytest.raises(CotraceError, match=r"f\.json: holds a number beyond 1\.8e308; write one that can be held"):
        parse_json(text, "f.json")
