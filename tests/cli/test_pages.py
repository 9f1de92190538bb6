"""The recipes and the page for people who come from elsewhere: every block of Python is run on the model that ships."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


FIRST, *RECIPES = blocks("recipes.md")
HEADS = re.findall(r"^## (.*)$", (DOCS / "recipes.md").read_text(), re.MULTILINE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("recipe", RECIPES, ids=HEADS)
def test_a_recipe_runs_by_itself_in_ten_lines(recipe: str) -> None:
    names: dict[str, object] = {}
    assert len(recipe.strip().splitlines()) <= 10
    exec(FIRST + recipe, names)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_called_elsewhere_runs_here() -> None:
    """All blocks of the page, one behind the other."""
    names: dict[str, object] = {}
    for block in blocks("coming-from.md"):
        exec(block, names)


def test_the_pages_for_newcomers_name_ten_calls_of_each_library() -> None:
    page = (DOCS / "coming-from.md").read_text()
    for section in page.split("\n## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        assert len(rows) - 1 == 10, section.splitlines()[0]
