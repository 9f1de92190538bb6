"""The release checklist: every point is checked, and the first that fails names what to do. Publishes nothing.

python scripts/release.py            what can be checked without building
python scripts/release.py --build    builds the wheel, runs it in an empty environment, writes the SBOM into dist/
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"torch": "pytorch"}
"""What conda-forge calls otherwise."""


class Missing(Exception):
    """A point that does not hold, and what to do."""


def version() -> str:
    """The one that the package says."""
    found = re.search(
        r'^__version__ = "(\d+\.\d+\.\d+)"$', (ROOT / "src/cotrace/__init__.py").read_text(), re.MULTILINE
    )
    if found is None:
        raise Missing('src/cotrace/__init__.py has no __version__ = "X.Y.Z"')
    return found[1]


def version_is_everywhere() -> None:
    """CITATION.cff and the conda recipe have the package's version."""
    for name, pattern in (("CITATION.cff", r"^version: \"?{}\"?$"), ("conda/recipe.yaml", r'^  version: "{}"$')):
        if not re.search(pattern.format(re.escape(version())), (ROOT / name).read_text(), re.MULTILINE):
            raise Missing(f"{name} does not have version {version()}")


def changes_have_a_section() -> None:
    """CHANGELOG.md has a section of this version, with something in it, and nothing is left above it."""
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    if not sections.get(version(), "").strip():
        raise Missing(f"CHANGELOG.md has no section '## {version()}': give 'Unreleased' that name and today's date")
    if sections.get("Unreleased", "").strip():
        raise Missing("CHANGELOG.md still has changes under 'Unreleased'")


def conda_has_the_same_dependencies() -> None:
    """The conda recipe's run requirements are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {_conda(one) for one in project["dependencies"]} | {f"python {project['requires-python']}"}
    run = re.search(r"^  run:\n((?:    - .*\n)+)", (ROOT / "conda/recipe.yaml").read_text(), re.MULTILINE)
    named = set(re.findall(r"^    - (.*)$", run[1], re.MULTILINE)) if run else set()
    if asked != named:
        raise Missing(f"conda/recipe.yaml differs from pyproject.toml in {', '.join(sorted(asked ^ named))}")


def _conda(requirement: str) -> str:
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
    return f"{NAMES.get(name, name.lower())} {bounds}"


def pages_are_current() -> None:
    """docs/api.md, docs/json.md and docs/licences.md are what their scripts write."""
    for name in ("api_page", "json_page", "licences_page"):
        subprocess.run([sys.executable, ROOT / "scripts" / f"{name}.py"], check=True)
    changed = _git("status", "--porcelain", "docs")
    if changed:
        raise Missing(f"pages were not current and have been written anew, commit them:\n{changed}")


def tree_is_committed_and_tagged() -> None:
    """Nothing is uncommitted, and the commit bears the tag of the version."""
    if _git("status", "--porcelain"):
        raise Missing("there are uncommitted changes")
    if f"v{version()}" not in _git("tag", "--points-at", "HEAD").split():
        raise Missing(f"the commit has no tag v{version()}: git tag -s v{version()}")


def wheel_runs_in_an_empty_environment() -> None:
    """The wheel, installed without constraints, runs the demo."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT], check=True)
    subprocess.run([ROOT / "scripts/wheel_demo"], check=True)


def bill_of_materials_is_written() -> None:
    """dist/sbom.json: CycloneDX of what is installed here, licences and all."""
    out = ROOT / "dist/sbom.json"
    command = ["cyclonedx-py", "environment", sys.executable, "--pyproject", ROOT / "pyproject.toml", "-o", out]
    subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], check=True)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()


QUICK: tuple[Callable[[], None], ...] = (
    version_is_everywhere,
    changes_have_a_section,
    conda_has_the_same_dependencies,
    pages_are_current,
    tree_is_committed_and_tagged,
)
BUILT: tuple[Callable[[], None], ...] = (wheel_runs_in_an_empty_environment, bill_of_materials_is_written)


def failures(points: tuple[Callable[[], None], ...]) -> Iterator[str]:
    """Checks the points in order, says each, and yields those that do not hold."""
    for point in points:
        try:
            point()
        except (Missing, subprocess.CalledProcessError) as error:
            print(f"MISSING  {point.__doc__}\n         {error}")
            yield point.__name__
        else:
            print(f"ok       {point.__doc__}")


def main() -> None:
    """The exit code is 1 where a point does not hold."""
    parser = argparse.ArgumentParser(description="The release checklist")
    parser.add_argument("--build", action="store_true", help="build the wheel and run it, too")
    points = QUICK + (BUILT if parser.parse_args().build else ())
    failed = list(failures(points))
    print("By hand: read the screenshots (scripts/screenshots.py), then push the tag.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
