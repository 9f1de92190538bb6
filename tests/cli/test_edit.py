"""`cotrace generate` and `cotrace edit` on a tiny run: what is written, and every wrong input in one line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import cotrace as ct
from cotrace.cli.handing_out import read_prompts
from cotrace.cli.main import run
from cotrace.editing.scoring import ScoredTask
from cotrace.errors import InputError
from cotrace.runs.manifest import Manifest
from tests.conftest import records, word_tokenizer, write_lines


@pytest.fixture(scope="module")
def stored(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and beside it prompts and a neutral text in the model's words."""
    folder = tmp_path_factory.mktemp("stored")
    pairs = write_lines(folder / "pairs.jsonl", records())
    asked = [
        "--model",
        str(tiny_folder),
        "--task",
        str(pairs),
        "--holdout",
        "0.25",
        "--quiet",
        "--out",
        str(folder / "run"),
    ]
    assert run(["trace", *asked, "--search", "greedy"]) == 0
    (folder / "prompts.txt").write_text("the pilot said\nthe nurse\n\nthe tall baker was\n")
    (folder / "neutral.txt").write_text(
        "the tall baker ran and was tall\nshe was a doctor\nthey said that he ran\n" * 3
    )
    (folder / "judge.py").write_text(
        "def she(prompts, texts):\n    return [t.split().count('she') for t in texts]\n"
        "def wrong(prompts, texts):\n    return [1.0]\n"
    )
    return folder


@pytest.fixture
def place(stored: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    shutil.copytree(stored, tmp_path / "here")
    return tmp_path / "here"


def test_generate_writes_both_continuations_and_scores(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", str(place / "run"), "--k", "2", "--prompts", str(place / "prompts.txt")]
    arguments += ["--max-new-tokens", "4", "--judge", f"{place}/judge.py:she"]
    assert run(arguments) == 0
    rows = [json.loads(line) for line in (place / "run" / "generated-k2.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["the pilot said", "the nurse", "the tall baker was"]
    assert all(row["base_score"] == row["base"].split().count("she") for row in rows)
    assert "score on generated text" in " ".join(capsys.readouterr().out.split())
    assert run(arguments) == 0
    assert (place / "run" / "generated-k2-2.jsonl").read_text() == (place / "run" / "generated-k2.jsonl").read_text()


@pytest.mark.parametrize("donor", ["scale=0.2", "mean=task"])
def test_edit_saves_a_model_that_scores_as_the_hooked_one(place: Path, donor: str) -> None:
    out = place / "edited"
    arguments = ["edit", str(place / "run"), "--k", "2", "--donor", donor, "--neutral", str(place / "neutral.txt")]
    assert run([*arguments, "--quiet", "--out", str(out)]) == 0
    task = ct.Task.from_jsonl(place / "pairs.jsonl")
    problem = ct.LanguageProblem(ct.load_model(_model(place)), task, holdout=0.25)
    selection = ct.Frontier.from_dict(json.loads((place / "run" / "selection.json").read_text())["frontiers"][0]).at(2)
    training = ct.Task(name="seen", pairs=tuple(p for p in task.pairs if p.id in problem.training.ids))
    part = ScoredTask(problem.model, task)
    with ct.apply(problem.model, selection, donor, reference=training):
        expected = part.scores()
    loaded = AutoModelForCausalLM.from_pretrained(out).eval()
    edited = ct.wrap(loaded, AutoTokenizer.from_pretrained(out))
    torch.testing.assert_close(ScoredTask(edited, task).scores(), expected, rtol=0, atol=1e-5)
    record = json.loads((out / "cotrace_edit.json").read_text())
    assert record["components"] == selection.components
    assert record["largest_difference"] < 1e-5
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in (f"`{donor}`", *selection.components, "nll on text", "log_odds on pairs"):
        assert words in card


def _model(place: Path) -> str:
    import yaml

    return str(yaml.safe_load((place / "run" / "config.yaml").read_text())["model"])


def test_a_constraint_picks_the_strongest_edit_within_and_writes_the_curve(place: Path) -> None:
    out = place / "edited"
    arguments = ["edit", str(place / "run"), "--constraint", "neutral<=5%", "--neutral", str(place / "neutral.txt")]
    assert run([*arguments, "--sizes", "1", "--sizes", "2", "--quiet", "--out", str(out)]) == 0
    with (out / "tradeoff.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    allowed = [row for row in rows if row["allowed"] == "True"]
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    assert float(chosen["strength"]) == max(float(row["strength"]) for row in allowed)
    assert float(chosen["harm: neutral: rise of nll"]) <= 0.05
    record = json.loads((out / "cotrace_edit.json").read_text())
    assert record["donor"] == chosen["donor"]
    assert " ".join(record["components"]) == chosen["components"]


def other_model(place: Path) -> str:
    """A model with fewer layers."""
    with torch.random.fork_rng():
        config = GPT2Config(
            n_layer=1, n_head=1, n_embd=16, n_positions=32, vocab_size=16, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).save_pretrained(place / "small")
    word_tokenizer().save_pretrained(place / "small")
    return str(place / "small")


def spoiled(place: Path, text: str) -> str:
    (place / "run" / "selection.json").write_text(text)
    return str(place / "run")


Make = Callable[[Path], list[str]]
EDITS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "output folder exists": (lambda p: ["--k", "2", "--out", str(p / "run")], ("run", "--out")),
    "another model": (lambda p: ["--k", "4", "--model", other_model(p)], ("another architecture or size",)),
    "factor outside": (lambda p: ["--k", "2", "--donor", "scale=7"], ("7", "-1 .. 2")),
    "factors outside": (lambda p: ["--k", "2", "--factors", "0.5", "--factors", "9"], ("9", "-1 .. 2")),
    "counterfactual": (lambda p: ["--k", "2", "--donor", "counterfactual"], ("does not stand alone",)),
    "unknown donor": (lambda p: ["--k", "2", "--donor", "zeroo"], ("zeroo", "zero")),
    "no such size": (lambda p: ["--k", "9"], ("9", "1-4")),
    "no size": (lambda p: [], ("--k",)),
    "size twice": (lambda p: ["--k", "2", "--sizes", "3"], ("--sizes",)),
    "donor twice": (lambda p: ["--k", "2", "--donor", "zero", "--factors", "1"], ("--factors",)),
    "constraint of no form": (lambda p: ["--constraint", "neutral<1"], ("neutral<=1%",)),
    "constraint with nothing to choose": (
        lambda p: ["--constraint", "neutral<=5%", "--k", "2", "--donor", "zero"],
        ("--constraint", "leave nothing to choose"),
    ),
    "limit of no harness": (lambda p: ["--k", "2", "--lm-eval-limit", "3"], ("--lm-eval-limit", "--lm-eval: name")),
    "constraint on nothing": (lambda p: ["--constraint", "newtral<=1%"], ("newtral", "neutral")),
    "constraint that nothing keeps": (
        lambda p: ["--constraint", "neutral<=0%", "--factors", "0", "--factors", "0.5", "--k", "4"],
        ("no edit", "neutral<=0"),
    ),
    "unknown search": (lambda p: ["--k", "2", "--search", "pursuit"], ("pursuit", "greedy")),
    "unknown second task": (lambda p: ["--k", "2", "--second-task", "winobas"], ("winobas", "winobias")),
    "neutral text that is not there": (lambda p: ["--k", "2", "--neutral", "nowhere.txt"], ("nowhere.txt",)),
}
GENERATIONS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "no prompts": (lambda p: ["--prompts", "nowhere.txt"], ("nowhere.txt",)),
    "judge of the wrong shape": (lambda p: ["--judge", f"{p}/judge.py:wrong"], ("wrong", "shape")),
    "judge that is not there": (lambda p: ["--judge", "nowhere:judge"], ("nowhere",)),
    "counterfactual": (lambda p: ["--donor", "counterfactual"], ("generated position",)),
    "output exists": (lambda p: ["--out", str(p / "prompts.txt")], ("prompts.txt", "--out")),
    "too many tokens": (lambda p: ["--max-new-tokens", "40"], ("32", "max_new_tokens")),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_wrong_edit_is_one_line_and_writes_nothing(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, words = EDITS[name]
    neutral = ["--neutral", str(place / "neutral.txt")] if "neutral text" not in name else []
    given = make(place)
    out = ["--out", str(place / "edited")] if "--out" not in given else []
    refuse(["edit", str(place / "run"), *given, *neutral, *out, "--quiet"], words, capfd)
    assert not (place / "edited").exists()


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_wrong_generation_is_one_line(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, words = GENERATIONS[name]
    given = make(place)
    prompts = ["--prompts", str(place / "prompts.txt")] if "--prompts" not in given else []
    refuse(["generate", str(place / "run"), "--k", "2", *given, *prompts, "--quiet"], words, capfd)
    assert not list((place / "run").glob("generated*"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"frontiers": []}', '{"frontiers": [{"search": 1}]}'])
def test_a_run_that_cannot_be_read_is_one_line(place: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    refuse(
        ["edit", spoiled(place, text), "--k", "2", "--out", str(place / "new"), "--quiet"], ("selection.json",), capfd
    )


def refuse(arguments: list[str], words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = run(arguments)
    out, err = capfd.readouterr()
    assert code == 2, err
    assert err.startswith("cotrace: ")
    assert err.count("\n") == 1, err
    assert out == ""
    for word in words:
        assert word in err


@pytest.mark.parametrize("command", ["edit", "generate"])
def test_a_model_that_changed_since_the_run_is_refused_unless_it_is_named(
    stored: Path, tiny_folder: Path, tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The weights at the run's own path are others now: nothing found on the old ones holds of them."""
    here = Path(shutil.copytree(stored, tmp_path / "here"))
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    asked = ["--task", str(here / "pairs.jsonl"), "--holdout", "0.25", "--quiet", "--max-size", "2"]
    assert run(["trace", "--model", str(model), *asked, "--search", "topk", "--out", str(tmp_path / "own")]) == 0
    other = GPT2LMHeadModel.from_pretrained(model)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    other.save_pretrained(model)
    words = {
        "edit": [
            "edit",
            str(tmp_path / "own"),
            "--k",
            "1",
            "--out",
            str(tmp_path / "edited"),
            "--neutral",
            str(here / "neutral.txt"),
        ],
        "generate": ["generate", str(tmp_path / "own"), "--k", "1", "--prompts", str(here / "prompts.txt")],
    }[command]
    capfd.readouterr()
    assert run([*words, "--quiet"]) == 2
    said = capfd.readouterr().err
    assert "the model differs" in said
    assert said.count("\n") == 1
    assert run([*words, "--quiet", "--model", str(model)]) == 0


def test_a_text_that_the_tokenizer_cannot_read_is_one_line(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "neutral.txt").write_text("words that the model never heard\n" * 3)
    words = ["edit", str(place / "run"), "--k", "1", "--out", str(place / "edited")]
    assert run([*words, "--neutral", str(place / "neutral.txt"), "--quiet"]) == 2
    said = capfd.readouterr().err
    assert "tokenizer cannot read" in said
    assert said.count("\n") == 1
    assert not (place / "edited").exists()


@pytest.mark.parametrize("sign", ["\u2028", "\x0c", "\x85", "\x1e"])
def test_only_a_line_break_ends_a_prompt(tmp_path: Path, sign: str) -> None:
    (plain := tmp_path / "p.txt").write_text(f"one{sign}two\r\n\nthree", encoding="utf-8", newline="")
    (lines := tmp_path / "p.jsonl").write_text(f'{{"prompt": "one{sign}two"}}\r\n'.replace("\x0c", "\\f")
                                               .replace("\x1e", "\\u001e"), encoding="utf-8", newline="")  # fmt: skip
    assert list(read_prompts(plain)) == [f"one{sign}two", "three"]
    assert list(read_prompts(lines)) == [f"one{sign}two"]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": "a", "prompt": "b"}', '{"prompt": "\\ud800"}', "[]", " "])
def test_prompts_of_another_form_are_refused_with_their_line(tmp_path: Path, line: str) -> None:
    (path := tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match="is empty" if line == " " else "p.jsonl:1"):
        list(read_prompts(path))


@pytest.mark.parametrize("command", ["edit", "generate"])
def test_a_run_in_keep_mode_is_refused(place: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Its selections are what to leave alone: to edit them would do the opposite."""
    data = json.loads((place / "run" / "selection.json").read_text())
    data["frontiers"][0]["mode"] = "keep"
    (place / "run" / "selection.json").write_text(json.dumps(data))
    Manifest.of(place / "run").write()
    own = ["--out", str(place / "new")] if command == "edit" else ["--prompts", str(place / "prompts.txt")]
    refuse([command, str(place / "run"), "--k", "2", *own, "--quiet"], ("keep mode",), capfd)
    assert not (place / "new").exists()
