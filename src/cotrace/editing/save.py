"""Saving an edited model: a folder that plain transformers loads, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, OutputExists
from cotrace.models import LanguageModel
from cotrace.visible import visible_json

RECORD = "cotrace_edit.json"
"""What was edited, as data, beside the model card."""


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
    """
    path = check_free(out)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    try:
        model.module.save_pretrained(temporary)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        (temporary / RECORD).write_text(
            visible_json(json.dumps(record, indent=1, ensure_ascii=False)) + "\n", encoding="utf-8"
        )
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
