"""``cotrace diff``, ``verify`` and ``cite``: may a result be relied on, and how is it named?"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.replies import schemas
from cotrace.cli.screen import Screen
from cotrace.errors import NotReproduced
from cotrace.runs.citation import cite
from cotrace.runs.difference import difference
from cotrace.runs.evidence import check_same_data
from cotrace.runs.prepare import prepare
from cotrace.runs.stored import StoredRun
from cotrace.runs.verification import check_consistent, check_examples, check_hashes, verify
from cotrace.visible import visible


def compare_runs(one: str, other: str, *, quiet: bool = False, as_json: bool = False) -> None:
    """Show what differs and whether the results agree. Raises InputError, DamagedRun."""
    screen = Screen(quiet, as_json)
    found = difference(StoredRun.read(one), StoredRun.read(other))
    for table in found.tables():
        screen.say(table)
    for search in found.only_one:
        screen.say(f"Only one of the runs has the search {search}.")
    screen.say(found.verdict)
    screen.data("diff", found.to_dict)


@own_threads()
def verify_run(
    run: str, examples: int, *, model: str | None = None, quiet: bool = False, as_json: bool = False
) -> None:
    """Hashes first, so that nothing is loaded for a damaged run; then effects again. Raises NotReproduced."""
    screen = Screen(quiet, as_json)
    check_examples(examples)
    stored = StoredRun.read(run, model=model)
    check_hashes(stored)
    check_consistent(stored)
    quiet_libraries()
    screen.note(f"loading {stored.config.model}")
    prepared = prepare(stored.question, check=partial(check_same_data, stored.path))
    found = verify(stored, prepared, examples, seed=stored.config.seed)
    screen.say(found.table())
    for line in found.elsewhere:
        screen.say(f"This machine differs: {line}")
    screen.data("verify", found.to_dict)
    if found.outcome == "different":
        raise NotReproduced(f"{run}: {found.verdict} Compare versions and hardware with `cotrace diff` and a new run")
    screen.say(found.verdict)


def cite_run(run: str, *, as_json: bool = False) -> None:
    """Print the paragraph and the entries, character by character: they are to be copied."""
    screen, found = Screen(as_json=as_json), cite(StoredRun.read(run))
    screen.data("cite", lambda: asdict(found))
    if not as_json:
        screen.raw(visible(found.text) + "\n")


def print_schema(command: str | None) -> None:
    """Print the JSON Schema of one command's reply, or of all. Raises UnknownName."""
    found = schemas(command)
    Screen().raw(json.dumps(found if command is None else found[command], indent=1) + "\n")
