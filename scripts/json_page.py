"""Writes docs/json.md from the models of the replies: python scripts/json_page.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotrace.cli.replies import REPLIES, Reply

HEAD = """# JSON for programs

Every command takes `--json`: one JSON object on one line of stdout, and nothing else there; progress and warnings stay
on stderr. `cotrace schema COMMAND` prints its JSON Schema, `cotrace schema` all of them. Every object has `schema`, the
number of the form (1); within one number fields are only ever added. A figure that was not computed is `null`. With
`--dry-run` the object is the plan. `cotrace measure` and `cotrace check` take `--json FILE` as well.

This page is written by `python scripts/json_page.py`.
"""


def page() -> str:
    """The page."""
    return HEAD + "".join(f"\n## `{command}`\n{_forms(forms)}" for command, forms in REPLIES.items())


def _forms(forms: tuple[type[Reply], ...]) -> str:
    return "\n".join(f"{(form.__doc__ or '').strip()}\n\n{''.join(_rows(form))}" for form in forms)


def _rows(form: type[Reply]) -> Iterator[str]:
    yield "| field | type | |\n|---|---|---|\n"
    schema = form.model_json_schema(mode="serialization")
    for name, field in schema["properties"].items():
        if name != "schema":
            yield f"| `{name}` | {_type(field)} | {field.get('description', '').replace(chr(10), ' ')} |\n"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_type, field["anyOf"])))
    if "$ref" in field:
        return f"object {field['$ref'].rpartition('/')[2]}"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    return str(field.get("type", "any"))


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "json.md").write_text(page(), encoding="utf-8")
