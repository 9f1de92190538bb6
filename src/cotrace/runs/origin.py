"""Where a metric or donor of the user's own comes from: its file's hash, and the state of that file's repository."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cotrace.donors import donor_file
from cotrace.runs.manifest import Fingerprint

LONGEST_S = 10.0


def origin_of(metric: str | None) -> dict[str, Any] | None:
    """File, hash and git state of ``package.module:function`` or ``file.py:function``; None for a metric of ours."""
    where, colon, _ = (metric or "").rpartition(":")
    path = _file(where) if colon else None
    if path is None:
        return None
    return {"file": str(path), "sha256": Fingerprint.of_file(path).sha256} | git_state(path)


def donor_origin(donors: str | None) -> dict[str, Any] | None:
    """File, hash and git state of ``vector=FILE`` and ``noise=FILE``; None for other donors."""
    found = donor_file(donors)
    if found is None:
        return None
    path = Path(found[1]).resolve()
    return {"file": str(path), "sha256": Fingerprint.of_file(path).sha256} | git_state(path)


def _file(where: str) -> Path | None:
    if where.endswith(".py"):
        return Path(where).resolve()
    spec = find_spec(where)  # it was imported before: the metric is there
    return Path(spec.origin).resolve() if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def git_state(path: Path) -> dict[str, Any]:
    """The commit that the file's repository is at, and whether the file differs from it; both None outside of one."""
    commit = _git(path, "rev-parse", "HEAD")
    status = None if commit is None else _git(path, "status", "--porcelain", "--ignored", "--", path.name)
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git(path: Path, *arguments: str) -> str | None:
    """What git says in the file's folder; None without git, outside a repository, or where it says nothing in time."""
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "-C", str(path.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)  # noqa: S603
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
