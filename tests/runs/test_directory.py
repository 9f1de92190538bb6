"""Run directories: claimed before anything is made, written file by file, each in full or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from cotrace.cli.main import run
from cotrace.errors import InputError, OutputExists, RunBusy
from cotrace.runs import RunDirectory
from cotrace.runs.directory import sweep, write_atomically


def test_folders_that_a_path_leaves_again_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputExists, match="already holds files"):
        RunDirectory.claim("none/../taken")
    with RunDirectory.claim("none/../new").begun(b"a") as begun:
        assert begun == tmp_path / "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]


@pytest.mark.parametrize("out", ["ro", "empty2/../ro"])
def test_the_demo_refuses_a_folder_before_anything_is_loaded(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro" / "config.yaml").touch()
    (tmp_path / "ro" / "manifest.json").touch()
    monkeypatch.setattr("cotrace.cli.runner.prepare", lambda *_: pytest.fail("the model was loaded"))
    assert run(["demo", "--out", out]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ro"]


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
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="disk full") as caught:
        write_atomically(path, b"after")
    assert caught.value.filename == str(path), "the message can name the file"
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["frontier.csv"]


def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_two_that_begin_take_two_folders_or_the_second_is_refused(tmp_path: Path) -> None:
    first, second = RunDirectory.next_free(tmp_path / "run"), RunDirectory.next_free(tmp_path / "run")
    named = RunDirectory.claim(tmp_path / "run")
    with first.begun(b"a") as one, second.begun(b"b") as other:
        assert (one.name, other.name) == ("run", "run-2")
        with pytest.raises((OutputExists, RunBusy)), named.begun(b"c"):
            pass
    assert (one / "config.yaml").read_bytes() == b"a"
    with pytest.raises(OutputExists, match="has not finished: go on with `cotrace resume"):
        RunDirectory.claim(one)


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_that_was_taken_since_it_was_claimed_is_not_written_to(tmp_path: Path, finished: bool) -> None:
    """The other run has come and gone: its lock is free, its files are not ours to write over."""
    named, free = RunDirectory.claim(tmp_path / "run"), RunDirectory.next_free(tmp_path / "run")
    with RunDirectory.claim(tmp_path / "run").begun(b"theirs") as theirs:
        (theirs / "manifest.json").write_bytes(b"{}") if finished else None
    with pytest.raises(OutputExists), named.begun(b"ours"):
        pass
    with free.begun(b"ours") as ours:
        assert ours.name == "run-2"
    assert (theirs / "config.yaml").read_bytes() == b"theirs"


def test_a_rename_is_flushed_to_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's list of names last: without it a loss of power may leave the old file, or none."""
    real, flushed = os.fsync, []

    def fsync(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "a").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", b"content")
    assert flushed == [(False, False), (True, True)]


def mistaken(path: Path, name: str) -> None:
    """A run that ends with a mistake once there is a file of that name."""
    with RunDirectory.claim(path).begun(b"a") as begun:
        (begun / name).touch()
        raise InputError("no")


@pytest.mark.parametrize("there", [False, True])
def test_a_mistake_before_the_first_checkpoint_leaves_nothing_of_ours(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
    with pytest.raises(InputError, match="no"):
        mistaken(path, ".frontier.csv.abc.tmp")
    assert [one.name for one in tmp_path.iterdir()] == (["run"] if there else [])
    with pytest.raises(InputError, match="no"):
        mistaken(path, "theirs.txt")
    assert [one.name for one in path.iterdir()] == ["theirs.txt"]


def test_leftovers_of_a_killed_process_are_no_run(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.x1.tmp").write_bytes(b"mod")
    with RunDirectory.claim(tmp_path).begun(b"a"):
        pass
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml"}
