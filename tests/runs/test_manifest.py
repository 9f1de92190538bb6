"""The manifest: it lists what is there, sees what changes, and never lists a file with another content's hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotrace.errors import DamagedRun, InputError
from cotrace.runs import manifest
from cotrace.runs.manifest import Fingerprint, Manifest, add_files, check_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"a.csv": "1\n", "b.json": "{}", ".lock": "", ".a.csv.x.tmp": "h"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "checkpoint").mkdir()
    Manifest.of(tmp_path).write()
    return tmp_path


def test_it_lists_plain_files_with_size_and_hash(folder: Path) -> None:
    listed = Manifest.read(folder).files
    assert sorted(listed) == ["a.csv", "b.json"]
    assert listed["a.csv"] == Fingerprint(2, "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865")


@pytest.mark.parametrize(
    ("content", "words"), [("12\n", "has 3 bytes, and the run wrote 2"), ("2\n", "its hash differs")]
)
def test_a_change_is_seen(folder: Path, content: str, words: str) -> None:
    check_files(folder, "a.csv", "b.json", "not listed")
    (folder / "a.csv").write_text(content)
    assert list(Manifest.read(folder).damaged()) == ["a.csv"]
    check_files(folder, "b.json")
    with pytest.raises(DamagedRun, match=words):
        check_files(folder, "b.json", "a.csv")


def test_without_a_manifest_a_run_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has not finished: go on with `cotrace resume {tmp_path}`"):
        check_files(tmp_path, "a.csv")


def test_files_are_added_and_changed(folder: Path) -> None:
    add_files(folder, {"a.csv": b"other\n", "new.json": b"[]"})
    assert Manifest.read(folder).damaged() == {}
    assert list(Manifest.read(folder).files) == ["a.csv", "b.json", "new.json"]
    assert (folder / "a.csv").read_bytes() == b"other\n"


@pytest.mark.parametrize("at", range(5))
def test_a_kill_while_adding_leaves_no_wrong_hash(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first, second, ... write."""
    write, written = manifest.write_atomically, []

    def killed(path: Path, content: bytes) -> None:
        if len(written) == at:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(manifest, "write_atomically", killed)
    if at < 4:
        with pytest.raises(KeyboardInterrupt):
            add_files(folder, {"a.csv": b"other\n", "new.json": b"[]"})
    else:
        add_files(folder, {"a.csv": b"other\n", "new.json": b"[]"})
        assert written == ["manifest.json", "a.csv", "new.json", "manifest.json"]
    assert Manifest.read(folder).damaged() == {}


@pytest.mark.parametrize(
    "payload",
    [
        {"schema": 2, "files": {}},
        {"schema": 1},
        {"schema": 1, "files": []},
        {"schema": 1, "files": {"a.csv": {"size_bytes": "2", "sha256": "x"}}},
        {"schema": 1, "files": {"a.csv": {"size_bytes": 2}}},
    ],
)
def test_a_manifest_of_another_form_is_one_line(folder: Path, payload: dict[str, object]) -> None:
    (folder / "manifest.json").write_bytes(manifest.seal(payload))
    with pytest.raises(DamagedRun, match="is not what this cotrace writes; restore it"):
        Manifest.read(folder)


def test_no_name_leads_out_of_the_folder(folder: Path) -> None:
    one = {"size_bytes": 2, "sha256": "x"}
    files = {"a.csv": one, "../b.json": one, "in/c.json": one}
    (folder / "manifest.json").write_bytes(manifest.seal({"schema": 1, "cotrace": "0", "files": files}))
    assert [*Manifest.read(folder).files] == ["a.csv"]
