"""An edited model on disk, with its model card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, OutputExists
from cotrace.models import LanguageModel
from cotrace.results.outcomes import Outcome, outcome_cells
from cotrace.text.escape import json_bytes, visible

RECORD = "cotrace_edit.json"
"""File that describes the edit as data, beside the model card."""


def check_free(out: str | Path) -> Path:
    """The folder, which must not hold anything yet. Raises OutputExists, InputError; nothing is created."""
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputExists(f"the output {path} exists already: name a new folder with --out")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise InputError(f"the output folder {path} cannot be made: {parent} is not a folder that can be written to")
    return path


def save(
    model: LanguageModel,
    out: str | Path,
    card: str,
    record: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write weights, configuration, tokenizer, model card (README.md), record and further files.

    The folder appears when it is complete. Raises OutputExists, InputError.

    Args:
        model: The model whose weights are written.
        out: New folder.
        card: The model card, as Markdown.
        record: Data about the edit, written beside it.
        files: Further files: name -> content.
    """
    path = check_free(out)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    try:
        model.module.save_pretrained(temporary)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        (temporary / RECORD).write_bytes(json_bytes(record, nan=True))
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        _flush(temporary)
        temporary.chmod(0o755)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def _flush(folder: Path) -> None:
    """Every file on the disk before the folder gets its name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


HEADS = ("what", "pairs", "before", "95 % interval", "after", "95 % interval", "change", "95 % interval")
UNSEEN = "The traced task on pairs that the search has not seen."
SEEN = "The traced task on the pairs that the set was chosen by, which flatters it: nothing was held out."
LIMITS = """The figures hold for these pairs and texts, and for nothing else. A metric that moved is
evidence that the edit moved that metric; it is no evidence that the model is fair, safe or accurate elsewhere. Measure
your own use before relying on it."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that the card says."""

    base_model: str
    revision: str | None
    donor: str
    components: Sequence[str]
    question: str
    """The traced question in words."""
    outcomes: Sequence[Outcome]
    largest_difference: float
    """Between the log-probabilities of the saved and of the hooked model."""
    unseen: bool = True
    """Whether the traced task was measured on pairs that the search has not seen."""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Markdown with the front matter that model hubs read."""
        return visible("\n\n".join(["\n".join(self._front()), *self._body()])) + "\n"

    def record(self) -> dict[str, Any]:
        """The same as data."""
        return {
            "schema": 1,
            "base_model": self.base_model,
            "revision": self.revision,
            "donor": self.donor,
            "components": list(self.components),
            "question": self.question,
            "outcomes": [one.row() for one in self.outcomes],
            "largest_difference": self.largest_difference,
            "unseen": self.unseen,
            "versions": dict(self.versions),
            "command": self.command,
            "notes": list(self.notes),
        }

    def _front(self) -> list[str]:
        """YAML; text in double quotes, so that no name can break out."""
        lines = [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            f"base_model: {_quoted(self.base_model)}",
        ]
        return [*lines, "tags:", "- cotrace", "- model-editing", "---"]

    def _body(self) -> list[str]:
        names = " ".join(f"`{name}`" for name in self.components)
        base = _plain(self.base_model) + (f", revision {self.revision}" if self.revision else "")
        return [
            f"# {_plain(self.base_model)}, edited with cotrace",
            (
                f"The weights of {base}, with {len(self.components)} components under the donor `{self.donor}` "
                "folded in. It loads like any other model and runs as fast as the base."
            ),
            f"## What was traced\n{_plain(self.question)}",
            f"## What was edited\n{names}",
            f"## What it does and what it cost\n{UNSEEN if self.unseen else SEEN}\n\n{self._table()}",
            *([f"## Notes\n{chr(10).join(f'- {_plain(note)}' for note in self.notes)}"] if self.notes else []),
            f"## Limits\n{LIMITS}",
            f"## How it was made\n{self._made()}",
        ]

    def _table(self) -> str:
        rows = [HEADS, ("---",) * len(HEADS), *(outcome_cells(one)[:-1] for one in self.outcomes)]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)

    def _made(self) -> str:
        proof = (
            f"Largest difference between its log-probabilities and the hooked model's: {self.largest_difference:.2g}."
        )
        used = f" Versions: {', '.join(f'{name} {version}' for name, version in self.versions.items())}."
        command = f"\n\n```\n{self.command}\n```" if self.command else ""
        return proof + (used if self.versions else "") + command


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return " ".join(text.split()).replace("<", "&lt;").replace("`", "'")


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'
