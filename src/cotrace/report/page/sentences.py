"""The sentences of the first screen, one file for each language that the report speaks (assets/sentences.*.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import yaml

from cotrace.errors import unknown

LANGUAGES = ("en", "de")


@cache
def sentences(language: str) -> Mapping[str, str]:
    """The table of a language. Raises UnknownName."""
    if language not in LANGUAGES:
        raise unknown("language", language, LANGUAGES)
    text = files("cotrace.report").joinpath("assets", f"sentences.{language}.yaml").read_text("utf-8")
    found: dict[str, str] = yaml.safe_load(text)
    return found
