"""What the tests share: a tiny decoder with its tokenizer, saved to a folder, and pairs in its words."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import shapes

shapes.install()
settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub's client: no test needs the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # the width of the terminal that the tests happen to run in is no part of them

WORDS = (
    "the",
    "a",
    "pilot",
    "nurse",
    "doctor",
    "baker",
    "said",
    "that",
    "she",
    "he",
    "they",
    "was",
    "tall",
    "and",
    "ran",
)


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_the_commands_under_test() -> None:
    """A suite started in the background, or by nohup, hands down signals that are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _charts_are_held_against_their_schema_in_their_own_room() -> None:
    """In ``tests/report``: Altair checks a chart as it is made, which is a quarter of the time of figures."""
    from altair.utils import schemapi

    schemapi.DEBUG_MODE = False


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 2 layers x 2 heads with random weights, large enough to matter, and a tokenizer of whole words."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": len(WORDS) + 1}
        model = GPT2LMHeadModel(GPT2Config(**size, initializer_range=0.6, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def word_tokenizer() -> Any:
    """A tokenizer that gives one token per word; an unknown word has none."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0} | {word: i for i, word in enumerate(WORDS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(words))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+"), "removed", invert=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>")


def records() -> list[dict[str, Any]]:
    """Twelve pairs that swap one occupation for another."""
    jobs = ("pilot", "nurse", "doctor", "baker")
    swaps = [(one, other) for one in jobs for other in jobs if one != other]
    return [
        {"id": f"{one}-{other}", "base": f"the {one} said that", "counterfactual": f"the {other} said that"}
        | {"answers": [" she", " he"], "target": 0}
        for one, other in swaps
    ]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """The pairs as JSON Lines."""
    return write_lines(tmp_path / "pairs.jsonl", records())


def write_lines(path: Path, rows: list[Any]) -> Path:
    """One JSON value per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
