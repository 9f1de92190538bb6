"""Every file of a run directory cut short, emptied or changed: every reader says so in one line, with the remedy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cotrace.cli.main import run
from cotrace.errors import DamagedRun, InputError
from cotrace.runs.addenda import AUDIT, EFFECTS, check_audit_unused, with_effects
from cotrace.runs.manifest import Manifest, add_files
from cotrace.runs.result_files import StoredRun
from tests.faults.harness import SAME, Commands, Kills

Capture = pytest.CaptureFixture[str]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: list[Callable[[bytes], bytes]] = [halved, emptied, flipped]
EVERY = ("config.yaml", "selection.json", "manifest.json")
READERS = {
    "resume": (["resume", "RUN"], (*SAME, *EVERY, "frontier.png")),
    "evaluate": (["evaluate", "RUN"], (*EVERY, "effects.safetensors")),
    "generate": (["generate", "RUN", "--k", "1", "--prompts", "prompts.txt"], EVERY),
    "edit": (["edit", "RUN", "--k", "1", "--out", "edited"], EVERY),
    "report": (["report", "RUN"], (*EVERY, "effects.safetensors", "evaluation.json")),
    "figure": (["figure", "RUN", "--kind", "map"], (*EVERY, "effects.safetensors", "evaluation.json")),
    "export": (["export", "RUN"], EVERY),
}
CASES = [(reader, name) for reader, (_, names) in READERS.items() for name in dict.fromkeys(names)]


K, E = "topk.training.keys", "topk.training.effects"
ONE_SET = {K: torch.zeros(1, 5, dtype=torch.uint8), E: torch.zeros(1, 3)}
"""What a run of 40 components may hold."""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({E: None}, "only one of"),
        ({K: None}, "only one of"),
        ({K: torch.zeros(1, 5)}, "no list of sets of 40"),
        ({K: torch.zeros(1, 4, dtype=torch.uint8)}, "no list of sets of 40"),
        ({E: torch.zeros(2, 3)}, "a row of effects for each set"),
        ({E: torch.zeros(1)}, "a row of effects for each set"),
        ({E: torch.zeros(1, 3, dtype=torch.int64)}, "a row of effects for each set"),
        ({E: torch.zeros(1, 3, dtype=torch.bfloat16)}, "no arrays that can be read"),
        ({E: torch.full((1, 3), float("nan"))}, "not finite"),
    ],
)
def test_effects_that_no_run_writes_are_refused_though_the_manifest_has_their_hash(
    whole: Path, tmp_path: Path, wrong: dict[str, Tensor | None], said: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    frontier = replace(StoredRun.read(folder).frontiers[0], search="topk")
    assert len(frontier.space) == 40
    for content, words in ((ONE_SET, None), (ONE_SET | wrong, said)):
        save_file({name: tensor for name, tensor in content.items() if tensor is not None}, folder / EFFECTS)
        Manifest.of(folder).write()
        if words is None:
            assert with_effects(folder, frontier).effects is not None
            continue
        with pytest.raises(InputError, match=words):
            with_effects(folder, frontier)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(("reader", "name"), CASES)
def test_a_damaged_file_is_one_line(
    whole: Path,
    reader: str,
    name: str,
    damage: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    monkeypatch.chdir(whole.parent)
    Path("prompts.txt").write_text("the nurse said that\n")
    path = whole / name
    path.write_bytes(damage(path.read_bytes()))
    before = {one: one.read_bytes() for one in whole.iterdir()}
    assert run([str(whole) if word == "RUN" else word for word in READERS[reader][0]]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert "Traceback" not in err
    assert last.startswith(f"cotrace: {path} ")
    assert "restore it" in last
    assert {one: one.read_bytes() for one in whole.iterdir()} == before, "something was written"


@pytest.mark.parametrize("name", ["selection.json", "frontier.csv", "map.png"])
def test_a_missing_file_is_one_line(whole: Path, name: str, capfd: Capture) -> None:
    (whole / name).unlink()
    assert run(["resume", str(whole)]) == 2
    assert f"{whole / name} cannot be read (No such file or directory); restore it" in capfd.readouterr().err


READ = {
    **{
        name: (words, tuple(one for one in names if one != "manifest.json")) for name, (words, names) in READERS.items()
    },
    "resume": (["resume", "RUN"], (*SAME, "frontier.png")),
    "report": (["report", "RUN"], ("config.yaml", "examples.json", *(one for one in SAME if one != "history.csv"))),
    "verify": (["verify", "RUN"], (*SAME, "config.yaml", "frontier.png", "report.html")),
    "cite": (["cite", "RUN"], ("config.yaml", "selection.json", "evaluation.json")),
    "diff": (["diff", "RUN", "RUN"], ("config.yaml", "selection.json", "frontier.csv")),
}


@pytest.mark.parametrize("reader", READ)
def test_a_file_that_is_gone_is_one_line(
    whole: Path, reader: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """A command never goes on as if the run had not had the file."""
    monkeypatch.chdir(whole.parent)
    Path("prompts.txt").write_text("the nurse said that\n")
    words, names = READ[reader]
    for name in dict.fromkeys(names):
        (whole / name).rename(kept := whole.parent / "kept")
        before = {one: one.read_bytes() for one in whole.iterdir()}
        assert run([str(whole) if word == "RUN" else word for word in words]) == 2, name
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"cotrace: {whole / name} cannot be read (No such file or directory)")
        assert {one: one.read_bytes() for one in whole.iterdir()} == before, "something was written"
        kept.rename(whole / name)


def test_an_audit_is_not_opened_again_where_its_figures_are_gone(whole: Path) -> None:
    add_files(whole, {AUDIT: b"{}"})
    (whole / AUDIT).unlink()
    with pytest.raises(DamagedRun, match="restore it"):
        check_audit_unused(whole)


def test_a_damaged_result_is_computed_again(whole: Path, kills: Kills, commands: Commands, capfd: Capture) -> None:
    """What the message says helps."""
    (whole / "frontier.csv").write_text("")
    assert run(["resume", str(whole)]) == 2
    assert f"delete {whole / 'manifest.json'} and let `cotrace resume {whole}`" in capfd.readouterr().err
    (whole / "manifest.json").unlink()
    code, said = commands.run("resume", str(whole))
    assert code == 0, said
    assert {name for name in SAME if (whole / name).read_bytes() != (kills.whole / name).read_bytes()} == set()
    assert Manifest.read(whole).damaged() == {}


@pytest.fixture(scope="module")
def stopped(kills: Kills, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its third search: two checkpoints, both of which name the searches that are done."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    process = kills.commands.start(*kills.arguments, "--out", str(out))
    deadline = time.monotonic() + 120
    while not (out / "checkpoint" / "done-1.safetensors").exists() or len(list(out.glob("checkpoint/*.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    kills.commands.wait(process)
    return out


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("which", ["json", "safetensors", "done", "every json"])
def test_a_damaged_checkpoint_is_passed_over(
    stopped: Path, kills: Kills, tmp_path: Path, which: str, damage: Callable[[bytes], bytes]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    folder = run / "checkpoint"
    numbered = sorted(folder.glob("[0-9]*.json"))
    assert len(numbered) >= 2
    named = {
        "json": numbered[-1:],
        "safetensors": [folder / f"search-{numbered[-1].stem}.safetensors"],
        "done": [folder / "done-0.safetensors"],
        "every json": numbered,
    }
    for path in named[which]:
        path.write_bytes(damage(path.read_bytes()))
    code, said = kills.commands.run("resume", str(run))
    assert code == 0, said
    assert "cotrace: warning: " in said
    assert named[which][-1].name in said
    assert ("no checkpoint: from the beginning" in said) == (which in ("done", "every json"))
    assert {name for name in SAME if (run / name).read_bytes() != (kills.whole / name).read_bytes()} == set()


def test_a_damaged_config_is_not_resumed_and_not_replayed_in_silence(
    stopped: Path, tmp_path: Path, capfd: Capture
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("max_size: 3", "max_size: 2"))
    assert run(["resume", str(folder)]) == 2
    assert f"{path} is not what the run wrote" in capfd.readouterr().err
    assert run(["trace", "--config", str(path), "--dry-run", "--quiet"]) == 0
    assert run(["trace", "--config", str(path), "--dry-run"]) == 0
    assert f"warning: {path} was changed since a run wrote it" in capfd.readouterr().err
    path.write_text(text[: text.index("seed:")])
    assert run(["trace", "--config", str(path), "--dry-run"]) == 2
    assert f"{path} is cut short" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema=2), "not what this cotrace writes"),
        (lambda data: data["files"].update({"../x": {"size_bytes": 0, "sha256": ""}}), None),
        (lambda data: data.update(files=[]), "not what this cotrace writes"),
        (lambda data: data["files"].update({"frontier.csv": 3}), "not what this cotrace writes"),
    ],
)
def test_a_manifest_of_another_kind(whole: Path, change: Callable[[dict], None], words: str | None) -> None:
    """Sealed with a right hash, so that only its content is wrong."""
    from cotrace.errors import DamagedRun
    from cotrace.runs.manifest import seal

    payload = json.loads((whole / "manifest.json").read_text())["payload"]
    change(payload)
    (whole / "manifest.json").write_bytes(seal(payload))
    if words is None:
        assert all("/" not in name for name in Manifest.read(whole).files), "a name that leads out is no file of it"
    else:
        with pytest.raises(DamagedRun, match=words):
            Manifest.read(whole)


NOT_RUNS = {
    "absent": (lambda p: p / "absent", "there is no run"),
    "empty folder": (lambda p: p, "is not a run"),
    "file": (lambda p: written(p / "file", "x"), "there is no run"),
    "other config": (lambda p: written(p / "config.yaml", "model: a\ntask: b\n").parent, "is not what the run wrote"),
}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", NOT_RUNS)
def test_what_is_not_a_run_is_not_resumed(case: str, tmp_path: Path, capfd: Capture) -> None:
    make, words = NOT_RUNS[case]
    assert run(["resume", str(make(tmp_path))]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_changed_data_or_metric_are_not_resumed(kills: Kills, stopped: Path, tmp_path: Path, capfd: Capture) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    data = kills.commands.folder / "few.jsonl"
    kept = data.read_text()
    try:
        data.write_text("\n".join(kept.splitlines()[1:]) + "\n")
        assert run(["resume", str(folder), "--quiet"]) == 2
        assert "the data differ from those of" in capfd.readouterr().err
        data.unlink()
        assert run(["resume", str(folder), "--quiet"]) == 2
        assert "few.jsonl" in capfd.readouterr().err
    finally:
        data.write_text(kept)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "resume"])
def test_an_unfinished_run_is_no_result(stopped: Path, reader: str, capfd: Capture, tmp_path: Path) -> None:
    prompts = written(tmp_path / "prompts.txt", "the nurse said that\n")
    words = {"RUN": str(stopped), "prompts.txt": str(prompts), "edited": str(tmp_path / "edited")}
    assert run([words.get(word, word) for word in READERS[reader][0]]) == 2
    err = capfd.readouterr().err
    assert err == f"cotrace: the run {stopped} has not finished: go on with `cotrace resume {stopped}`\n"
