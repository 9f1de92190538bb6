"""diff, verify and cite on real runs: equal ones, others, damaged ones, and ones whose numbers were changed."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save

from cotrace.cli.main import run as cotrace
from cotrace.errors import DamagedRun, InputError
from cotrace.runs import difference as difference_module
from cotrace.runs.citation import SEARCHES, TASKS, cite
from cotrace.runs.config_file import read_run_config, write_config
from cotrace.runs.difference import difference
from cotrace.runs.directory import Log
from cotrace.runs.manifest import Manifest, add_files
from cotrace.runs.prepare import prepare
from cotrace.runs.result_files import StoredRun, frontier_csv
from cotrace.runs.verification import verify
from cotrace.runs.writer import RunWriter
from tests.conftest import records, write_lines

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


OTHERWISE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the data differ": lambda record: record.update(data_sha256="0" * 64),
    "weights_sha256": lambda record: record["model"].update(weights_sha256="0" * 64),
    "architecture": lambda record: record["model"].update(architecture="Other"),
    "the tokenizer differs": lambda record: record.update(tokenizer_sha256="0" * 64),
    "the metric differs": lambda record: record.update(metric_file={"sha256": "0" * 64}),
}


@pytest.mark.parametrize("words", OTHERWISE)
def test_another_model_or_other_data_verify_nothing(words: str, copied: Path) -> None:
    config, was = read_run_config(copied)
    record = json.loads(json.dumps(was))
    OTHERWISE[words](record)
    add_files(copied, {"config.yaml": write_config(config, record)})
    stored = StoredRun.read(copied)
    with pytest.raises(InputError, match=words):
        verify(stored, prepare(stored.config), examples=1)


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


def test_the_paragraph_says_how_the_result_was_judged(copied: Path) -> None:
    assert "judged on" not in cite(StoredRun.read(copied)).paragraph
    assert cotrace(["evaluate", str(copied), "--level", "quick", "--quiet"]) == 0
    found = json.loads((copied / "evaluation.json").read_text())
    said = f"{found['controls']['chains']} nested random sets of the same composition"
    paragraph = cite(StoredRun.read(copied)).paragraph
    assert f"The result was judged on 60 held-out pairs (resampled: {found['units']})" in paragraph
    assert said in paragraph
    (copied / "evaluation.json").write_text("{}")
    with pytest.raises(DamagedRun, match=r"evaluation\.json"):
        cite(StoredRun.read(copied))


def test_bibtex_entries_are_well_formed_and_their_keys_differ() -> None:
    entries = {entry for listed in SEARCHES.values() for entry in listed} | set(TASKS.values())
    for entry in entries:
        assert re.match(r"@(inproceedings|misc|software)\{\w+,\n", entry)
        assert entry.count("{") == entry.count("}")
        assert re.search(r"year = \{(19|20)\d\d\}", entry)
    assert len({entry[entry.index("{") : entry.index(",")] for entry in entries}) == len(entries)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first frontier of selection.json, and have the manifest say so."""
    data = json.loads((folder / "selection.json").read_text())
    change(data["frontiers"][0])
    (folder / "selection.json").write_text(json.dumps(data))
    Manifest.of(folder).write()


def tripled(frontier: dict[str, Any]) -> None:
    for selection in frontier["selections"]:
        selection["effect"] *= 3


def test_reported_numbers_are_held_against_the_effects_and_the_other_files(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever changes only what is reported is found, although every effect that was kept comes out again."""
    rewritten(copied, tripled)
    code, _, err = spoken(capsys, "verify", str(copied), "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "frontier.csv does not say what selection.json says" in err
    add_files(copied, {"frontier.csv": frontier_csv(StoredRun.read(copied).frontiers)})
    code, _, err = spoken(capsys, "verify", str(copied), "--quiet")
    assert code == 2
    assert "DIFFER" in err


def test_masks_of_other_sets_are_found(copied: Path) -> None:
    arrays = load_file(copied / "masks.safetensors")
    arrays["topk.masks"] = ~arrays["topk.masks"]
    add_files(copied, {"masks.safetensors": save(arrays)})
    stored = StoredRun.read(copied)
    with pytest.raises(DamagedRun, match=r"masks\.safetensors does not hold"):
        verify(stored, prepare(stored.config), examples=1)


def forgotten(folder: Path) -> Path:
    """The run as if its direction had been found when it was traced: its results and its record have it alone."""
    config, record = read_run_config(folder)
    (folder / "config.yaml").write_bytes(write_config(replace(config, direction=None), record))
    if (folder / "manifest.json").exists():
        Manifest.of(folder).write()
    return folder


@pytest.fixture
def unclear(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Everything swapped is the counterfactual's run, and every pair is there both ways round: the mean effect is 0."""
    pairs = write_lines(tmp_path / "pairs.jsonl", records())
    asked = ["trace", "--model", str(tiny_folder), "--task", str(pairs), "--sites", "attention_output,mlp_output"]
    return [*asked, "--holdout", "0", "--search", "greedy", "--max-size", "2"]


def test_what_shows_no_effect_says_so_first_and_is_searched_as_it_is_told(
    unclear: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, out, err = spoken(capsys, *unclear, "--out", str(run))
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1].endswith("covers 0: give --direction maximise or --direction minimise")
    assert not run.exists()
    code, out, err = spoken(capsys, *unclear, "--out", str(run), "--direction", "minimise")
    assert code == 0
    assert re.match(
        r"No effect is shown: the 95 % interval \S+ \.\. \S+ of the full swap's effect covers 0; swapping", out
    )
    assert "\nNo effect of swapping everything is shown. greedy: " in out
    verdict = json.loads((run / "evaluation.json").read_text())["verdict"]
    assert verdict[0].startswith("No effect is shown: on 12 pairs, training, the interval of the full swap covers 0")
    assert out.index(verdict[0]) < out.index(verdict[1])


def test_a_run_is_opened_again_in_the_direction_that_it_took(
    unclear: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs of before did, which took the sign of whatever there was: none is looked for again."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    asked = [*unclear, "--direction", "minimise", "--checkpoint-every-s", "0", "--quiet"]
    assert cotrace([*asked, "--out", str(whole)]) == 0
    with monkeypatch.context() as patched:
        own = RunWriter.step

        def stopping(self: RunWriter, *arguments: Any) -> None:
            own(self, *arguments)
            raise KeyboardInterrupt

        patched.setattr(RunWriter, "step", stopping)
        assert cotrace([*asked, "--out", str(stopped)]) != 0
    assert cotrace(["resume", str(forgotten(stopped)), "--quiet"]) == 0
    assert (stopped / "frontier.csv").read_bytes() == (whole / "frontier.csv").read_bytes()
    run, neutral = str(forgotten(whole)), tmp_path / "neutral.txt"
    neutral.write_text("the tall baker ran and was tall\nshe was a doctor\nthey said that he ran\n" * 3)
    for command in (
        ["verify", run],
        ["evaluate", run, "--level", "standard", "--text", str(neutral)],
        ["edit", run, "--k", "1", "--donor", "mean=task", "--neutral", str(neutral), "--out", str(tmp_path / "edited")],
        ["generate", run, "--k", "1", "--donor", "mean=task", "--prompts", str(neutral)],
        ["export", run, "--format", "effects", "--out", str(tmp_path / "effects.csv")],
        ["report", run],
    ):
        assert spoken(capsys, *command, "--quiet")[::2] == (0, ""), command[0]
    found = json.loads((whole / "evaluation.json").read_text())
    effects = pd.read_csv(tmp_path / "effects.csv").query(f"k == {found['k']}")["effect"]
    assert found["direction"] == "minimise"
    chosen = next(row for row in found["sizes"] if row["k"] == found["k"])
    assert chosen["moved_share"] == (effects < 0).mean()
    assert read_run_config(whole)[0].direction is None


def test_runs_without_a_size_in_common_do_not_agree(plain: Path, copied: Path) -> None:
    rewritten(plain_copy := copied, lambda frontier: frontier.update(selections=frontier["selections"][2:]))
    other = Path(shutil.copytree(plain, plain_copy.parent / "other"))
    for folder in (plain_copy, other):
        data = json.loads((folder / "selection.json").read_text())
        data["frontiers"] = data["frontiers"][:1]
        (folder / "selection.json").write_text(json.dumps(data))
    rewritten(other, lambda frontier: frontier.update(selections=frontier["selections"][:2]))
    add_files(plain_copy, {"frontier.csv": b"other bytes"})
    Manifest.of(plain_copy).write()
    found = difference(StoredRun.read(plain_copy), StoredRun.read(other))
    assert [agreement.sizes for agreement in found.agreements] == [0]
    assert not found.agree
    assert "cannot be compared" in found.verdict


def test_held_out_effects_that_differ_are_no_agreement(plain: Path, copied: Path) -> None:
    rewritten(copied, lambda frontier: frontier["selections"][0].update(effect_heldout=9.0))
    add_files(copied, {"frontier.csv": b"other bytes"})
    found = difference(StoredRun.read(plain), StoredRun.read(copied))
    assert found.agreements[0].same_sets == 3
    assert "more than rounding" in found.agreements[0].words
    assert not found.agree


def test_long_values_that_differ_at_their_end_are_listed_so_that_it_is_seen() -> None:
    long = "/a/long/way/to/the/data/of/somebody/who/likes/folders/within/folders/"
    one, other = {"data": f"{long}one.jsonl", "rate": 0.123451}, {"data": f"{long}two.jsonl", "rate": 0.123452}
    data, rate = difference_module._changes(one, other)
    assert data.one.endswith("one.jsonl")
    assert data.other.endswith("two.jsonl")
    assert (rate.one, rate.other) == ("0.123451", "0.123452")
    assert not list(difference_module._changes(one, dict(one)))


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an interval of one number": lambda f: f["selections"][0].update(interval=[1.0]),
    "an interval with a gap": lambda f: f["selections"][0].update(interval=[1.0, None]),
    "an effect that is text": lambda f: f["selections"][0].update(effect="x"),
    "an effect that is true": lambda f: f["selections"][0].update(effect=True),
    "components as one text": lambda f: f["selections"][0].update(components="L1.head7"),
    "a component outside the space": lambda f: f["selections"][0].update(components=["L9.head9"]),
    "a metric that is a number": lambda f: f.update(metric=5),
    "a mode that there is not": lambda f: f.update(mode="weird"),
    "a direction that there is not": lambda f: f.update(direction=["maximise"]),
    "a cost that is missing": lambda f: f.update(forward_equivalents=None),
    "a space that is text": lambda f: f.update(space="L1.head7"),
    "no selection": lambda f: f.update(selections=[]),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", ["cite", "report", "export", "diff", "verify"])
def test_results_of_another_form_are_one_line_for_every_reader(
    command: str, name: str, plain: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(copied, BROKEN[name])
    others = [str(plain)] if command == "diff" else []
    code, out, err = spoken(capsys, command, str(copied), *others)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "selection.json" in err


def test_a_log_that_leads_elsewhere_is_not_written_to(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (copied / "log.txt").unlink()
    (copied / "log.txt").symlink_to(tmp_path / "mine")
    with pytest.raises(DamagedRun, match="is a link"):
        Log(copied).say("something")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_that_leads_elsewhere_is_one_line_and_not_written_to(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    (copied / ".lock").unlink(missing_ok=True)
    (copied / ".lock").symlink_to(tmp_path / "mine")
    code, out, err = spoken(capsys, "report", str(copied))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (tmp_path / "mine").read_text() == "mine"


def test_names_in_bibtex_are_text_and_steer_no_terminal(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = StoredRun.read(copied)
    config, record = read_run_config(copied)
    own = dict(record) | {"model": dict(record["model"]) | {"architecture": "My_Net\x1b[31m", "commit": "a_b%"}}
    add_files(copied, {"config.yaml": write_config(replace(config, model="org/na_me"), own)})
    text = cite(stored).text
    assert r"title = {org/na\_me}" in text
    assert r"note = {My\_Net" in text
    assert r"revision a\_b\%," in text
    code, out, _ = spoken(capsys, "cite", str(copied))
    assert code == 0
    assert "\x1b" not in out
    add_files(copied, {"config.yaml": write_config(config, {"model": {}})})
    assert spoken(capsys, "cite", str(copied))[0] == 2


def test_the_chat_template_is_recorded_and_another_one_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = Path(shutil.copytree(tiny_folder, tmp_path / "model")), tmp_path / "run"
    template = "{% for m in messages %}the {{ m.content }} {% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    pairs = [{"id": row["id"], "answers": row["answers"], **chats(row)} for row in records()]
    data = write_lines(tmp_path / "chats.jsonl", pairs)
    words = ["--sites", "head_output", "--max-size", "2", "--search", "topk", "--evaluation", "none", "--quiet"]
    assert (
        cotrace(
            ["trace", "--model", str(model), "--task", str(data), *words, "--direction", "minimise", "--out", str(out)]
        )
        == 0
    )
    recorded = read_run_config(out)[1]["chat_template"]
    assert recorded["sha256"] == hashlib.sha256(template.encode()).hexdigest()
    assert recorded["pinned_date"]
    (model / "chat_template.jinja").write_text(template.replace("the", "a"))
    code, _, err = spoken(capsys, "evaluate", str(out))
    assert code == 2
    assert "the chat template differs from that of" in err
    assert not (out / "evaluation.json").exists()


def chats(row: dict[str, Any]) -> dict[str, Any]:
    """A pair's prompts as chats of one message."""
    fields = {"messages": row["base"], "counterfactual_messages": row["counterfactual"]}
    return {name: [{"role": "user", "content": text}] for name, text in fields.items()}
