"""One server of command lines for all fault tests of a process, and a run that nothing interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Commands, Kills, begin


@pytest.fixture(scope="session")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kills]:
    """The server with a whole run."""
    folder = tmp_path_factory.mktemp("faults")
    with Commands.serving(folder) as commands:
        yield begin(commands, seed=0)


@pytest.fixture
def commands(kills: Kills) -> Commands:
    return kills.commands


@pytest.fixture
def whole(kills: Kills, tmp_path: Path) -> Path:
    """A copy of the whole run, to be damaged."""
    return Path(shutil.copytree(kills.whole, tmp_path / "run"))
