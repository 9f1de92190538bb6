"""Every command on a run of features: it works, or refuses in one line."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator

import cotrace as ct
from cotrace.cli.main import run
from cotrace.dictionaries import Dictionary, save_dictionary
from cotrace.readout import Explanation
from tests.conftest import records, write_lines

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def traced(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over features of two dictionaries of one layer, each of which reconstructs its place exactly."""
    folder = tmp_path_factory.mktemp("features")
    eye = torch.cat([torch.eye(16), -torch.eye(16)])
    for hook in ("hook_attn_out", "hook_mlp_out"):
        one = Dictionary(
            name=hook,
            hook=f"blocks.1.{hook}",
            hook_out=f"blocks.1.{hook}",
            encoder=eye,
            bias=torch.zeros(32),
            decoder=eye,
            offset=torch.zeros(16),
            model_name=tiny_folder.name,
            neuronpedia=f'own/1-{hook}">{SCRIPT}',
        )
        save_dictionary(one, folder / "held" / hook)
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(2) for row in records()]
    asked = ["--model", str(tiny_folder), "--task", str(write_lines(folder / "pairs.jsonl", rows))]
    asked += ["--dictionaries", str(folder / "held"), "--sites", "feature,error", "--search", "topk", "--max-size", "3"]
    asked += ["--holdout", "0.4", "--direction", "maximise", "--evaluation", "none", "--quiet"]
    out = folder / "run"
    assert run(["trace", *asked, "--out", str(out)]) == 0
    return out


def test_costs_of_features_and_heads_are_asked_for_on_the_command_line(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same set as in Python, kept in the run's configuration; refused where no search takes them."""
    folder = traced.parent
    config = yaml.safe_load((traced / "config.yaml").read_text())
    asked = [
        "trace",
        "--model",
        config["model"],
        "--task",
        str(folder / "pairs.jsonl"),
        "--evaluation",
        "none",
        "--quiet",
    ]
    asked += [
        "--dictionaries",
        str(folder / "held" / "hook_mlp_out"),
        "--sites",
        "feature,head_output",
        "--max-size",
        "3",
    ]
    asked += ["--holdout", "0.4", "--direction", "maximise", "--cost-weights", "feature=0.1,head_output=2"]
    assert run([*asked, "--out", str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "run" / "selection.json").read_text())["frontiers"][0]
    assert stored["cost_weights"] == {"feature": 0.1, "head_output": 2.0}
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["cost_weights"] == "feature=0.1,head_output=2"
    capsys.readouterr()
    assert run([*asked, "--search", "greedy", "--out", str(tmp_path / "no")]) == 2
    assert "cost weights are taken by pursuit, and the run is of greedy" in capsys.readouterr().err
    assert run([*asked[:-1], "feature=cheap", "--out", str(tmp_path / "no")]) == 2
    assert "write them as in feature=0.1,head_output=1" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def card_of(page: str, name: str) -> str:
    """A member's card, as it is written."""
    (found,) = re.findall(f'<article class="member"[^>]*aria-label="{re.escape(name)}".*?</article>', page, re.DOTALL)
    return found


def names(traced: Path, k: int) -> list[str]:
    frontier = json.loads((traced / "selection.json").read_text())["frontiers"][0]
    return next(one for one in frontier["selections"] if len(one["components"]) == k)["components"]


def test_names_say_the_place_and_are_those_of_the_schema(traced: Path) -> None:
    data = json.loads((traced / "selection.json").read_text())
    Draft202012Validator(ct.interchange.schema()).validate(data)
    assert all(".attn." in name or ".mlp." in name for name in names(traced, 3))
    assert ct.interchange.read_selection(traced / "selection.json").components == data["chosen"]["components"]


def test_cards_of_features_are_in_the_explanation_and_in_the_report_escaped(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(traced), "--k", "3"]) == 0
    said = capsys.readouterr().out
    assert "What the features are" in said
    found = Explanation.from_dict(json.loads((traced / "explanation.json").read_text()))
    features = {card.component: card.feature for card in found.cards if card.feature is not None}
    assert list(features) == [card.component for card in found.cards if ".feature" in card.component] != []
    page = tmp_path / "page.html"
    assert run(["report", str(traced), "--out", str(page), "--quiet"]) == 0
    text = page.read_text()
    assert SCRIPT not in text
    for name, feature in features.items():
        assert feature is not None
        card = card_of(text, name)
        words = html.unescape(re.sub("<[^>]*>", "", card))
        for told in (*(token for token, _ in feature.promoted[:4]), *(one.token for one in feature.active[:4])):
            assert told in words
        links = re.findall('href="([^"]*)"', card)
        unit = name.rpartition("feature")[2]
        assert links == [feature.link]
        assert links[0].startswith("https://www.neuronpedia.org/own/1-hook_")
        assert links[0].endswith(f"/{unit}")
        assert "<" not in links[0]
    assert not re.search("src=[^>]*neuronpedia", text)  # nothing is fetched
    assert run(["report", str(traced), "--redact", "--out", str(tmp_path / "r.html"), "--quiet"]) == 0
    assert "most active in" not in card_of((tmp_path / "r.html").read_text(), next(iter(features)))


def test_a_link_in_a_file_leads_to_neuronpedia_or_nowhere(traced: Path, tmp_path: Path) -> None:
    assert run(["explain", str(traced), "--k", "1", "--quiet"]) == 0
    data = json.loads((traced / "explanation.json").read_text())
    data["cards"][0]["feature"] = {
        "dictionary": SCRIPT,
        "hook": SCRIPT,
        "active_share": 0.5,
        "active": [{"before": SCRIPT, "token": SCRIPT, "after": "", "activation": 1.0}],
        "promoted": [[SCRIPT, 1.0]],
        "link": "javascript:alert(1)",
    }
    found = Explanation.from_dict(data)
    frontier = ct.Frontier.from_dict(json.loads((traced / "selection.json").read_text())["frontiers"][0])
    text = ct.report.write(frontier, tmp_path / "r.html", explanation=found).read_text()
    assert SCRIPT not in text
    assert 'href="javascript' not in text
    assert found.cards[0].feature is not None


def test_commands_that_work(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the nurse\n")
    at = str(traced)
    for options in (
        ["evaluate", at, "--level", "quick"],
        ["generate", at, "--k", "2", "--prompts", str(prompts), "--max-new-tokens", "2"],
        ["report", at],
        ["verify", at],
        ["diff", at, at],
        ["resume", at],
        ["export", at, "--k", "2", "--format", "json", "--out", str(tmp_path / "a.json")],
        ["export", at, "--k", "2", "--format", "names", "--out", str(tmp_path / "a.txt")],
        ["export", at, "--format", "csv", "--out", str(tmp_path / "a.csv")],
        ["export", at, "--format", "effects", "--out", str(tmp_path / "a.npz")],
        ["figure", at, "--kind", "map", "--out", str(tmp_path / "map.svg"), "--format", "svg"],
    ):
        assert run([*options, "--quiet"]) == 0, (options, capsys.readouterr().err)
    assert (tmp_path / "a.txt").read_text().split() == names(traced, 2)


def test_commands_that_refuse_do_so_in_one_line(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = str(traced)
    capsys.readouterr()
    for options, words in (
        (["export", at, "--k", "2", "--format", "mib", "--out", str(tmp_path / "a")], "not features or errors of a"),
        (
            ["export", at, "--k", "2", "--format", "nnsight", "--out", str(tmp_path / "b")],
            "part of one module's input or output; export it to json",
        ),
        (
            ["export", at, "--k", "2", "--format", "transformer-lens", "--out", str(tmp_path / "c")],
            "in every model; export it to json",
        ),
    ):
        assert run([*options, "--quiet"]) == 2, options
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
