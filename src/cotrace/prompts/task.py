"""Task: prompt pairs and how their answers are scored and judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cotrace import markup
from cotrace.arguments import check_fields, check_kind, guarded
from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair

if TYPE_CHECKING:
    import pandas as pd

Score = Literal["sum", "mean"]
Encoding = Literal["joint", "alone", "text"]
SHOWN = 3
"""Pairs that a notebook shows."""


@guarded("ct.Task", fields=False)
@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompt pairs with a metric: all that a problem needs to know about the data."""

    name: str
    pairs: tuple[PromptPair, ...] = field(repr=False)
    metric: str = "log_odds"
    """Name of the metric that the task is judged by unless the user asks for another."""
    score: Score = "sum"
    """Whether an answer's score is the sum or the mean of its tokens' log-probabilities."""
    encoding: Encoding = "joint"
    """``joint``: an answer's tokens are what tokenising prompt + answer adds; ``alone``: the answer's own;
    ``text``: prompt and answer are one text, whose first token is the prompt."""
    sites: tuple[str, ...] = ("head_output",)
    """Sites that are traced unless the user names others."""
    donors: str = "counterfactual"
    """Donor source that is used unless the user names another, as on the command line (``noise=0.6045``)."""
    conventions: Literal["corrected", "paper", "own"] = "own"
    """Whether the data follow the paper's code, its corrected form, or the user's own file."""
    source: str = ""
    """Where the data come from, for the record."""
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Records of the source that could not be used: (which, why). Listed and counted, never dropped in silence."""

    def __post_init__(self) -> None:
        check_fields(f"task {self.name}", self)
        if not self.pairs:
            raise InputError(f"task {self.name}: the data set is empty; it needs at least one pair")
        seen: set[str] = set()
        for pair in self.pairs:
            if pair.id in seen:
                raise InputError(f"task {self.name}: the id {pair.id!r} stands twice; ids must differ")
            seen.add(pair.id)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Task({self.name}, {len(self)} pairs, {self.metric})"

    @property
    def sha256(self) -> str:
        """Hash of the pairs and of how they are scored, for the record of a run."""
        payload = [self.score, self.encoding, [asdict(pair) for pair in self.pairs]]
        return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()

    def _repr_html_(self) -> str:
        answers = "log-probability of the answer's tokens, " + {"sum": "summed", "mean": "averaged"}[self.score]
        judged = f"{self.metric} ({answers})"
        skipped = f"{len(self.skipped)}; the first, {': '.join(self.skipped[0])}" if self.skipped else ""
        facts = {"pairs": len(self), "judged by": judged, "donors": self.donors, "source": self.source}
        rows = [(pair.id, *_prompts(pair), " / ".join(pair.answers)) for pair in self.pairs[:SHOWN]]
        first = f"The first {len(rows)}"
        return markup.facts(f"Task {self.name}", facts | {"records that cannot be used": skipped}) + markup.table(
            first, ("id", "base", "counterfactual", "answers"), rows, left=range(4)
        )

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]] | pd.DataFrame, *, name: str = "records", metric: str = "log_odds"
    ) -> Task:
        """Task from dicts or a DataFrame with the JSON Lines format's fields. Raises InputError naming the record."""
        from cotrace.prompts.jsonl import pairs_from_records

        return cls(name=name, pairs=pairs_from_records(records), metric=metric, source=name)

    @classmethod
    def from_jsonl(cls, path: str | Path, *, metric: str = "log_odds") -> Task:
        """Task from a JSON Lines file; each line is checked, errors name the line. Raises InputError."""
        from cotrace.prompts.jsonl import read_pairs

        check_kind("Task.from_jsonl", "path", path, str | Path)
        path = Path(path)
        return cls(name=path.stem, pairs=read_pairs(path), metric=metric, source=path.name)


def _prompts(pair: PromptPair) -> tuple[str, str]:
    """Base and counterfactual as text; of a chat what was said last."""
    last = [str(chat[-1].get("content", "")) if chat else "" for chat in (pair.messages, pair.counterfactual_messages)]
    return pair.base or last[0], pair.counterfactual or last[1]
