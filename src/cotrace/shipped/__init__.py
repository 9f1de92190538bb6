"""The model that ships, its prompt pairs and a neutral text: data only, described in docs/demo-model.md."""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model"
"""Folder of the model and its tokenizer, for `from_pretrained`."""
NEUTRAL_TEXT = FOLDER / "neutral.txt"
"""One text a line, without persons, held out from training."""


def pairs(name: str = "bias") -> Path:
    """Path of a pair file: bias, agreement, copying or conflict."""
    return FOLDER / f"{name}.jsonl"
