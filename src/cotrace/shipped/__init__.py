"""The model that ships, its prompt pairs and two neutral texts: data only, described in docs/demo-model.md."""

from pathlib import Path

FOLDER = Path(__file__).parent
NAME = "shipped"
"""The word for the model, wherever a model is named; a folder that bears it too is written ./shipped."""
MODEL = FOLDER / "model"
"""Folder of the model and its tokenizer, for `from_pretrained`."""
NEUTRAL_TEXT = FOLDER / "neutral.txt"
"""One text a line, without persons, held out from training: what the model that ships reads."""
SHIPS = "ships with cotrace"
"""Behind the file's name, the source of a task that is made of a text that ships."""
ENGLISH_TEXT = FOLDER / "english.txt"
"""Plain English, a passage a line, written for cotrace and in the public domain (CC0): what other models read."""


def model_folder(name: str | Path) -> str | Path:
    """The name of a model as it is, or the folder of the one that ships where its word is given."""
    return MODEL if name == NAME else name


def pairs(name: str = "bias") -> Path:
    """Path of a pair file: bias, agreement, copying or conflict."""
    return FOLDER / f"{name}.jsonl"
