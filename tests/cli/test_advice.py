"""Advice that its reader can take: options on the command line, arguments in Python, and what to do with a prompt."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import cotrace as ct
from cotrace.batches import encode_task
from cotrace.batches.encode import _added
from cotrace.batches.tokenize import Text, Tokenised
from cotrace.cli.main import run
from cotrace.cli.options import in_options
from cotrace.errors import AlignmentError
from cotrace.runs.config import RunConfig
from tests.tiny import SHARED, needs_shared

SOURCE = Path(ct.__file__).parent


@pytest.mark.parametrize(
    ("python", "options"),
    [
        ("reword the pair, or use align='ends'", "reword the pair, or use --align ends"),
        ("donors='noise=x': write noise=0.6", "--donors noise=x: write noise=0.6"),
        ("give more pairs, or holdout=0", "give more pairs, or --holdout 0"),
        ("needs data: give data=PATH, the folder", "needs data: give --data PATH, the folder"),
        ("several='first' takes the first", "--task-option.several first takes the first"),
        ("attribution: 1 pair; set bootstrap=0 or", "attribution: 1 pair; set --option.attribution.bootstrap 0 or"),
        ("give it as split_by='FIELD'", "give it as --split-by FIELD"),
        ("'align' is a field; --align=x, target_align=3", "'align' is a field; --align=x, target_align=3"),
        ("attribution: set bootstrap=0 or give more", "attribution: set --option.attribution.bootstrap 0 or give more"),
        ("exhaustive: too many; set max_size=2, or", "exhaustive: too many; set --max-size 2, or"),
        ("batch_tokens is 0: give at least 1", "--batch-tokens is 0: give at least 1"),
        ("none has it, or PGBCT(path=12)", "none has it, or --option.pgbct.path 12"),
        (
            "sizes are 1-4; the nearest below is 4, and best(9) is the best",
            "sizes are 1-4; give --k 4, the nearest below",
        ),
        ("config.yaml, line 3: max_size: it is 'many'", "config.yaml, line 3: max_size: it is 'many'"),
        ("cannot read /a/max_size/b=c.jsonl", "cannot read /a/max_size/b=c.jsonl"),
        ("a norm; use apply() at run time", "a norm; use cotrace generate, which applies it at run time"),
    ],
)
def test_arguments_become_options(python: str, options: str) -> None:
    assert in_options(python) == options


def test_a_command_line_error_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"base": "The nurse said", "counterfactual": "The old man said", "answers": [" she", " he"]}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    asked = ["trace", "--model", "shipped", "--task", str(tmp_path / "pairs.jsonl"), "--holdout", "0"]
    assert run([*asked, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "--align ends" in said
    assert "align='ends'" not in said


def test_no_error_names_an_argument_that_nobody_can_give() -> None:
    """Every NAME='VALUE' in a text of the package is an argument of a public function."""
    public = {field.name for field in fields(RunConfig)} | {
        "encoding",
        "template_arguments",
        "several",
        "counterfactual",
    }
    public |= {"statistics", "level", "by", "sides", "score", "aim", "at"}
    found = {
        (path.name, name)
        for path in SOURCE.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if '"' in line and not line.lstrip().startswith(("#", '"""'))
        for name in re.findall(r"(?:use|give|try|with|or) ([a-z_]+)='", line)
    }
    assert {(path, name) for path, name in found if name not in public - {"encoding"}} == set()


MOVE = "from the end of the prompt to the beginning of the answers"


@needs_shared
@pytest.mark.parametrize(
    ("base", "answers", "advice", "moved"),
    [
        ("The nurse said that ", ("she", "he"), f"move ' ' {MOVE}", " "),
        ("The nurse was un", ("happy", "kind"), f"as in ' she', or move ' un' {MOVE}", " un"),
        ("He is a", (" b", "n"), f"; move ' a' {MOVE}", " a"),
        ("She said:\n", ("\n\nYes",), f"; move '\\n' {MOVE}", "\n"),
    ],
)
def test_the_remedy_fits_the_place_where_prompt_and_answer_meet(
    base: str, answers: tuple[str, ...], advice: str, moved: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models/tiny-gpt2")
    task = ct.Task.from_records([{"base": base, "answers": list(answers)}])
    with pytest.raises(AlignmentError) as caught:
        encode_task(task, tokenizer, paired=False, align="exact")
    assert advice in str(caught.value)
    assert "encoding" not in str(caught.value)
    followed = replace(task.pairs[0], base=base.removesuffix(moved), answers=tuple(moved + one for one in answers))
    (pair,) = encode_task(replace(task, pairs=(followed,)), tokenizer, paired=False, align="exact").pairs
    assert [tokenizer.decode(pair.prompt + ids) for ids in pair.answers] == [base + answer for answer in answers]


def test_a_space_on_both_sides_is_taken_off_the_prompt() -> None:
    pair = ct.PromptPair(id="a", base="said that ", answers=(" she", " he"))
    whole = Tokenised((1, 5), ((0, 4), (4, 10)))
    with pytest.raises(AlignmentError, match="take ' ' off the end of the prompt: the answers begin with a space"):
        _added(pair, (Text(pair.base), Tokenised((1, 2, 3), ((0, 4), (4, 9), (9, 10)))), whole.ids)
