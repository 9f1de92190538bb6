"""``cotrace generate``: continuations by the base model and by the edited one, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.cli.stored import Reopened
from cotrace.editing import Sampling, generate
from cotrace.editing.donors import checked_donor
from cotrace.editing.judge import load_judge
from cotrace.errors import InputError
from cotrace.json_file import parse_json, read_text
from cotrace.new_file import new_file
from cotrace.results.outcomes import outcome_table
from cotrace.runs.directory import write_atomically


@own_threads()
def generated(
    run: str,
    k: int,
    prompts: str,
    sampling: Sampling,
    *,
    donor: str = "zero",
    judge: str | None = None,
    search: str | None = None,
    model: str | None = None,
    out: str | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Generate, show, judge where asked, and write JSON Lines. Raises CotraceError."""
    screen = Screen(quiet, as_json)
    quiet_libraries()
    reopened = Reopened.read(run, model=model, search=search)
    selection = reopened.selection(k)
    asked = list(read_prompts(Path(prompts)))
    path = new_file(out) if out else _next_free(Path(run) / f"generated-k{k}.jsonl")
    checked_donor(donor)
    if donor.startswith("mean"):
        reopened.task  # noqa: B018  # data is read before the model is loaded
    judged = None if judge is None else load_judge(judge)
    screen.note(f"loading {reopened.config.model}")
    reference = reopened.reference if donor.startswith("mean") else None
    found = generate(reopened.model, asked, selection, donor, reference=reference, sampling=sampling, judge=judged)
    screen.say(found.table())
    if found.scores is not None:
        screen.say(outcome_table("The judge's score, intervals over prompts", [found.scores]))
    write_atomically(path, found.jsonl())
    screen.say(f"Written to {path}")
    screen.data("generate", lambda: {"written": str(path), **found.to_dict()})


def read_prompts(path: Path) -> Iterator[str]:
    """One prompt a line; in a .jsonl file the field ``prompt`` or ``base``. Raises InputError naming the line."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a text file with one prompt a line, or JSON Lines")
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: give one prompt a line")
    for number, line in lines:
        yield _prompt(line, f"{path}:{number}") if path.suffix == ".jsonl" else line


def _prompt(line: str, where: str) -> str:
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise InputError(f"{where}: not a JSON object with a 'prompt'")
    prompt = record.get("prompt", record.get("base"))
    if not isinstance(prompt, str) or not prompt:
        raise InputError(f"{where}: 'prompt' must be text")
    return prompt


def _next_free(path: Path) -> Path:
    """The path, or with the first number behind it that is free."""
    numbered = (path if n == 1 else path.with_stem(f"{path.stem}-{n}") for n in count(1))
    return next(one for one in numbered if not one.exists())
