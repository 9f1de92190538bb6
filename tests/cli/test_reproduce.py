"""`cotrace reproduce paper`: a run, a table and a figure for each setting; gone on with, never run twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotrace.cli import campaigns
from cotrace.cli.campaigns import SETTINGS, Asked, Setting
from cotrace.cli.main import run
from cotrace.runs.result_files import StoredRun
from tests.tiny import SHARED, needs_shared

ASKED = [
    "reproduce",
    "paper",
    "--model",
    "shipped",
    "--methods",
    "topk,random",
    "--max-size",
    "2",
    "--search-pairs",
    "8",
]


def test_a_setting_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bias = Setting("demo_bias", ("head_output",), "a bias in the words of the model that ships")
    monkeypatch.setattr(campaigns, "SETTINGS", {"bias": bias})
    out = tmp_path / "again"
    asked = [*ASKED, "--settings", "bias", "--out", str(out), "--quiet"]
    assert run(asked) == 0, capsys.readouterr().err
    stored = StoredRun.read(out / "bias")
    assert [one.search for one in stored.frontiers] == ["topk", "random"]
    text = (out / "README.md").read_text()
    assert "| method | cost | k = 1 | k = 2 |" in text
    best = stored.frontier("topk").at(1)
    assert f"{best.effect_heldout:+.4g}" in text
    assert b"<svg" in (out / "bias.svg").read_bytes()
    assert "published" not in text.split("## bias")[1], "the paper has no figures of this model"
    before = {path: path.stat().st_mtime_ns for path in (out / "bias").iterdir()}
    assert run(asked) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "bias").iterdir()} == before
    assert run([*asked, "--seed", "4"]) == 2
    assert "is of seed 0, and 4 is asked for: give another --out" in capsys.readouterr().err


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (
        (["--settings", "winobais"], "did you mean 'winobias'"),
        (["--settings", "winobias"], "setting winobias needs the benchmark's files: give --data"),
        (["--settings", "professions", "--data", str(tmp_path)], "professions for setting professions: put"),
    ):
        assert run([*ASKED, *options, "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["gpt2", "openai-community/gpt2", "/models/gpt2/"])
def test_the_paper_s_own_figures_stand_beside_those_of_the_same_model(model: str) -> None:
    lines = list(campaigns.published("winobias", model))
    assert lines[0].startswith("- published, pgbct: +0.107 (k = 8), ")
    assert "- published, everything: +0.105 (k = 144)" in lines
    assert "read off the paper's figure to within 0.0005" in lines[-2]
    assert not list(campaigns.published("winobias", "gpt2-medium")) + list(campaigns.published("winogender", model))


@needs_shared
def test_every_setting_has_the_paper_s_pairs_and_sites() -> None:
    asked = Asked(data=str(SHARED / "data"), model={"model": "m"})
    assert asked.names == tuple(SETTINGS) == ("winobias", "winogender", "professions", "counterfact", "binding")
    for name in asked.names:
        config = asked.config(name)
        task = config.load_task()
        assert task.pairs
        assert config.sites[0] in ("attention_pattern", "mlp_coordinate", "head_output")
        assert (config.conventions == "paper") == SETTINGS[name].needs_data
        assert config.search_options == {"pgbct": {"path": 6, "epochs": 30}}
