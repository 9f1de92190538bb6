"""What a release needs: the checklist finds what is missing, the pages of the project are there and say what is."""

from __future__ import annotations

import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checklist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's functions, at work on a copy of what they read."""
    for name in ("CHANGELOG.md", "CITATION.cff", "pyproject.toml", "conda/recipe.yaml", "src/cotrace/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    found = runpy.run_path(str(ROOT / "scripts" / "release.py"))
    monkeypatch.setitem(found["version"].__globals__, "ROOT", tmp_path)
    return found


def test_conda_asks_for_what_the_wheel_asks_for(checklist: Any, tmp_path: Path) -> None:
    checklist["conda_has_the_same_dependencies"]()
    path = tmp_path / "conda" / "recipe.yaml"
    path.write_text(path.read_text().replace("    - scipy >=1.13\n", ""))
    with pytest.raises(Exception, match=r"scipy >=1\.13"):
        checklist["conda_has_the_same_dependencies"]()


def test_one_version_is_everywhere(checklist: Any, tmp_path: Path) -> None:
    checklist["version_is_everywhere"]()
    (tmp_path / "CITATION.cff").write_text("version: 9.9.9\n")
    with pytest.raises(Exception, match=r"CITATION\.cff does not have version"):
        checklist["version_is_everywhere"]()


def test_the_changes_of_a_version_have_its_section(checklist: Any, tmp_path: Path) -> None:
    path = tmp_path / "CHANGELOG.md"
    version = checklist["version"]()
    path.write_text("# Changes\n\n## Unreleased\n- something\n")
    with pytest.raises(Exception, match="no section"):
        checklist["changes_have_a_section"]()
    path.write_text(f"# Changes\n\n## Unreleased\n- something\n\n## {version} (2026-01-01)\n- all\n")
    with pytest.raises(Exception, match="still has changes"):
        checklist["changes_have_a_section"]()
    path.write_text(f"# Changes\n\n## Unreleased\n\n## {version} (2026-01-01)\n- all\n")
    checklist["changes_have_a_section"]()


def test_every_dependency_is_in_the_list_of_licences() -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", page, re.MULTILINE))
    for line in project["dependencies"]:
        name = re.sub(r"[-_.]+", "-", re.split(r"[<>=\[]", line)[0]).lower()
        assert listed.get(name), name
    assert not [name for name, licence in listed.items() if re.search(r"\b(?<!L)(A?GPL)", licence)]


def test_the_pages_for_people_are_there_and_templates_are_forms() -> None:
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE"):
        assert len((ROOT / name).read_text()) > 500
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)


def test_ci_runs_what_there_is() -> None:
    """Every make target and script that a job names."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = " ; ".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", commands)) <= targets
    for script in re.findall(r"(?:\.ci|scripts)/\w+", commands):
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0
    torches = [one["torch"] for one in jobs["wheel"]["strategy"]["matrix"]["include"]]
    oldest = next(
        line
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if line.startswith("torch")
    )
    assert {"torch", f"torch=={oldest.partition('>=')[2]}.*"} <= set(torches)
