"""Run directories: claimed before anything is made, written file by file, each in full or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cotrace.errors import InputError, OutputExists
from cotrace.runs import RunDirectory
from cotrace.runs.directory import write_atomically


def test_claiming_makes_nothing(tmp_path: Path) -> None:
    directory = RunDirectory.claim(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    directory.write({"one.txt": b"1", "two.txt": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()} == {
        "one.txt": b"1",
        "two.txt": b"2",
    }


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    assert RunDirectory.claim(tmp_path).path == tmp_path
    (tmp_path / "config.yaml").touch()
    with pytest.raises(OutputExists, match="already holds a run"):
        RunDirectory.claim(tmp_path)


def test_next_free_counts_up(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        directory = RunDirectory.next_free(tmp_path / "demo")
        directory.write({"a": b""})
        names.append(directory.path.name)
    assert names == ["demo", "demo-2", "demo-3"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(InputError, match="written to"):
        RunDirectory.claim(tmp_path / "new" / "run")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    path = tmp_path / "frontier.csv"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["frontier.csv"]


def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
