"""Files of text that are too large are refused before they fill the memory, by every reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from cotrace import tasks
from cotrace.cli.handing_out import read_prompts
from cotrace.errors import InputError
from cotrace.interchange import read_selection
from cotrace.report.page import EXAMPLES
from cotrace.runs.addenda import read_evaluation, read_tradeoff
from cotrace.runs.manifest import unseal
from cotrace.text import files

LIMIT = 1000
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "counterfact": ("counterfact.json", lambda path: tasks.counterfact(path.parent)),
    "ioi": ("ioi_vanilla_template_prompts.json", lambda path: tasks.ioi(path.parent)),
    "winobias": ("female_occupations.txt", lambda path: tasks.winobias(path.parent)),
    "winogender": ("occupations-stats.tsv", lambda path: tasks.winogender(path.parent)),
    "professions": ("templates.txt", lambda path: tasks.professions(path.parent)),
    "auto_circuit": ("prompts.json", tasks.auto_circuit),
    "text": ("neutral.txt", tasks.text),
    "prompts": ("prompts.txt", lambda path: list(read_prompts(path))),
    "selection": ("selection.json", read_selection),
    "evaluation": ("evaluation.json", read_evaluation),
    "tradeoff": ("tradeoff.json", read_tradeoff),
    "manifest": ("manifest.json", unseal),
    "examples": (EXAMPLES, files.read_text),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(files, "LIMIT_BYTES", LIMIT)
    file, read = READERS[name]
    (tmp_path / file).write_bytes(b" " * (LIMIT + 1))
    with pytest.raises(InputError, match=rf"{file}.* has 1,001 bytes, more than the 1,000 that are read; split it"):
        read(tmp_path / file)


def test_a_file_at_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIMIT_BYTES", LIMIT)
    path = tmp_path / "neutral.txt"
    path.write_text("one two\n" * (LIMIT // 8))
    assert len(tasks.text(path)) == LIMIT // 8


def test_a_pipe_without_end_is_refused_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no size to be asked for."""
    monkeypatch.setattr(files, "LIMIT_BYTES", LIMIT)
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def pour() -> None:
        try:
            with path.open("wb", buffering=0) as file:
                for _ in range(1000):
                    file.write(b"x" * 4096)
        except BrokenPipeError:
            pass  # what is wanted: the reader has gone

    writer = Thread(target=pour, daemon=True)
    writer.start()
    with pytest.raises(InputError, match="has more than the 1,000 bytes that are read"):
        files.read_text(path)
    writer.join(10)
    assert not writer.is_alive()
