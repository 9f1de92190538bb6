"""A finished run read back: its configuration and its frontiers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, unknown
from cotrace.json_file import parse_json, read_text
from cotrace.results import Frontier
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_config, read_run_config
from cotrace.runs.directory import CONFIG
from cotrace.runs.manifest import check_files, is_finished

SELECTION = "selection.json"


@dataclass(frozen=True)
class StoredRun:
    """What a run directory says, nothing loaded or computed."""

    path: Path
    config: RunConfig
    frontiers: tuple[Frontier, ...]

    @classmethod
    def read(cls, path: str | Path, *, model: str | None = None) -> StoredRun:
        """The run in a folder; ``model`` takes the stead of the one that it was run on. Raises InputError."""
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"there is no run {folder}: give the folder that cotrace trace has written")
        if not (folder / CONFIG).is_file() and not is_finished(folder):
            raise InputError(f"{folder} is not a run: it holds no {CONFIG}; give the folder that cotrace trace named")
        check_files(folder, CONFIG, SELECTION)
        config = read_config(folder / CONFIG)
        if "pairs_judged" not in read_run_config(folder)[1]:  # of before there was a choice: all judged
            config = replace(config, judge_pairs="all")
        return cls(folder, config if model is None else replace(config, model=model), _frontiers(folder))

    @property
    def question(self) -> RunConfig:
        """The configuration with the direction that the run took: whoever opens it again looks for no other."""
        return replace(self.config, direction=self.config.direction or self.frontiers[0].direction)

    def frontier(self, search: str | None = None) -> Frontier:
        """The frontier of a search; the first where none is named. Raises UnknownName."""
        by_name = {one.search: one for one in self.frontiers}
        if search is not None and search not in by_name:
            raise unknown("search", search, by_name)
        return self.frontiers[0] if search is None else by_name[search]


def _frontiers(folder: Path) -> tuple[Frontier, ...]:
    path = folder / SELECTION
    text = read_text(path)
    try:
        data: Any = parse_json(text, str(path))
        found = tuple(map(Frontier.from_dict, data["frontiers"]))
    except InputError as error:
        raise InputError(f"{path} is not what a run writes ({error}); run it again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what a run writes ({type(error).__name__}: {error}); run it again") from None
    if not found or not all(map(len, found)):
        raise InputError(f"{path} holds no frontier, or one without a selection; run it again")
    return found
