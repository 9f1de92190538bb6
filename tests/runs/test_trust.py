"""diff, verify and cite on real runs: equal ones, others, damaged ones, and ones whose numbers were changed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from cotrace.cli.main import run as cotrace
from cotrace.errors import DamagedRun, InputError
from cotrace.runs.citation import cite
from cotrace.runs.difference import difference
from cotrace.runs.manifest import Manifest, add_files
from cotrace.runs.prepare import prepare
from cotrace.runs.references import SEARCHES, TASKS
from cotrace.runs.stored import StoredRun
from cotrace.runs.verification import verify

TRACE = ["--model", "shipped", "--task", "demo_bias", "--max-size", "3", "--evaluation", "none", "--quiet"]


def traced(folder: Path, *options: str) -> Path:
    command = "compare" if "topk,random" in options else "trace"
    assert cotrace([command, *TRACE, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced(tmp_path_factory.mktemp("runs") / "plain", "--searches", "topk,random")


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copied"))


def spoken(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cotrace(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_replay_agrees_byte_by_byte(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    assert cotrace(["compare", "--config", str(plain / "config.yaml"), "--out", str(again), "--quiet"]) == 0
    code, out, _ = spoken(capsys, "diff", str(plain), str(again))
    assert code == 0
    assert "agree byte by byte" in out
    assert "What differs" not in out


def test_what_was_asked_otherwise_is_listed_and_the_results_are_compared(plain: Path, tmp_path: Path) -> None:
    other = traced(tmp_path / "other", "--searches", "topk,random", "--seed", "1")
    found = difference(StoredRun.read(plain), StoredRun.read(other))
    assert ("seed", "0", "1") in [(change.entry, change.one, change.other) for change in found.changes]
    assert not found.agree
    assert [agreement.search for agreement in found.agreements] == ["topk", "random"]
    assert found.verdict == "The results differ."


def test_another_number_type_agrees_up_to_rounding(plain: Path, tmp_path: Path) -> None:
    other = traced(tmp_path / "double", "--search", "topk", "--dtype", "float64")
    found = difference(StoredRun.read(plain), StoredRun.read(other))
    (topk,) = found.agreements
    assert topk.same_sets == topk.sizes == 3
    assert 0 < topk.largest_difference < 1e-5
    assert "rounding" in topk.words
    assert found.only_one == ("random",)
    assert not found.agree


def test_a_run_verifies(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = spoken(capsys, "verify", str(plain), "--examples", "7", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["outcome"] in ("same", "within tolerance")
    assert found["files"] == len(Manifest.read(plain).files)
    assert {(row["search"], row["part"]) for row in found["recomputed"]} == {
        (search, part) for search in ("topk", "random") for part in ("training", "held-out")
    }
    assert all(row["examples"] == 7 and row["selections"] == 3 for row in found["recomputed"])
    assert all(row["scale"] > 0.1 for row in found["recomputed"])


def test_changed_numbers_with_a_matching_manifest_are_found(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever changes effects and hashes alike is found by computing them again."""
    arrays = load_file(copied / "effects.safetensors")
    arrays["topk.heldout.effects"] = arrays["topk.heldout.effects"] + np.float32(0.01)
    add_files(copied, {"effects.safetensors": save(arrays)})
    code, _, err = spoken(capsys, "verify", str(copied), "--quiet")
    assert code == 2
    assert err.count("\n") == 1
    assert "DIFFER" in err


def test_effects_that_were_not_kept_are_compared_as_means(copied: Path) -> None:
    (copied / "effects.safetensors").unlink()
    Manifest.read(copied).without(["effects.safetensors"]).write()
    stored = StoredRun.read(copied)
    found = verify(stored, prepare(stored.config), examples=3)
    assert found.outcome in ("same", "within tolerance")
    assert {row.examples for row in found.recomputed} == {140, 60}


def test_a_damaged_file_is_named_before_anything_is_loaded(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copied / "frontier.csv").open("a") as file:
        file.write("x")
    code, _, err = spoken(capsys, "verify", str(copied))
    assert code == 2
    assert "frontier.csv" in err
    assert "loading" not in err
    with pytest.raises(DamagedRun, match=r"frontier\.csv"):
        difference(StoredRun.read(copied), StoredRun.read(copied))


def test_bad_requests_are_one_line(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("verify", str(plain), "--examples", "0"),
        ("verify", str(tmp_path)),
        ("diff", str(plain), str(tmp_path / "none")),
        ("cite", str(tmp_path / "none")),
    ):
        code, out, err = spoken(capsys, *words, "--quiet")
        assert (code, out, err.count("\n")) == (2, "", 1), words
    with pytest.raises(InputError, match="at least 1"):
        verify(StoredRun.read(plain), prepare(StoredRun.read(plain).config), examples=0)


def test_the_paragraph_says_what_the_run_was_and_cites_what_is_listed(plain: Path) -> None:
    found = cite(StoredRun.read(plain))
    for fact in ("40 components", "log_odds", "demo_bias", "mode swap", "140 pairs", "60 held-out", "topk", "random"):
        assert fact in found.paragraph
    keys = re.findall(r"^@\w+\{(.+?),$", "\n".join(found.entries), re.MULTILINE)
    cited = re.findall(r"\[([\w; ]+)\]", found.paragraph)
    assert {key for group in cited for key in group.split("; ")} <= set(keys)
    assert keys[:2] == ["cotrace", "yan2026multicomponent"]


def test_bibtex_entries_are_well_formed_and_their_keys_differ() -> None:
    entries = {entry for listed in SEARCHES.values() for entry in listed} | set(TASKS.values())
    for entry in entries:
        assert re.match(r"@(inproceedings|misc|software)\{\w+,\n", entry)
        assert entry.count("{") == entry.count("}")
        assert re.search(r"year = \{(19|20)\d\d\}", entry)
    assert len({entry[entry.index("{") : entry.index(",")] for entry in entries}) == len(entries)
