"""Continuations side by side: by the base model and by the edited one, with scores and intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cotrace.results import Table
from cotrace.results.outcomes import Outcome
from cotrace.statistics import Units, mean_interval
from cotrace.visible import visible_json

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 40


@dataclass(frozen=True)
class Continuation:
    """One prompt continued twice."""

    prompt: str
    base: str
    edited: str
    base_score: float | None = None
    edited_score: float | None = None


@dataclass(frozen=True)
class Continuations:
    """Every prompt continued by both models."""

    rows: tuple[Continuation, ...]
    samples: int = 1
    """Continuations of each prompt, which stand one behind the other."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that decided which tokens were taken: what was asked for, and what the model's own generation_config sets."""

    @property
    def drawn(self) -> str:
        """How tokens were taken, in words."""
        if not self.settings.get("do_sample"):
            return "the likeliest token each time"
        rest = {name: value for name, value in self.settings.items() if name != "do_sample"}
        return f"drawn with {', '.join(f'{name} {value}' for name, value in rest.items())}"

    @property
    def changed(self) -> float:
        """Share of continuations that the edit changes."""
        return sum(row.base != row.edited for row in self.rows) / len(self.rows)

    @property
    def scores(self) -> Outcome | None:
        """The judge's mean score before and after; intervals over prompts. None without a judge."""
        if any(row.base_score is None for row in self.rows):
            return None
        base = self._by_prompt([row.base_score or 0.0 for row in self.rows])
        edited = self._by_prompt([row.edited_score or 0.0 for row in self.rows])
        units = Units.made(len(base))
        return Outcome(
            task="generated text",
            metric="score",
            pairs=len(base),
            before=float(base.mean()),
            after=float(edited.mean()),
            before_interval=mean_interval(base, units),
            after_interval=mean_interval(edited, units),
            change_interval=mean_interval(edited - base, units),
        )

    def _by_prompt(self, scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Mean over the samples of each prompt, which are not independent."""
        found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.array(scores, float).reshape(-1, self.samples).mean(1)
        return found

    def jsonl(self) -> bytes:
        """One JSON object a line."""
        lines = (json.dumps(row, ensure_ascii=False) for row in self.to_dict()["rows"])
        return "".join(f"{visible_json(line)}\n" for line in lines).encode()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; each row with the settings."""
        own = dict(self.settings)
        return {"settings": own, "rows": [asdict(row) | {"settings": own} for row in self.rows]}

    def table(self) -> Table:
        """Both continuations of each prompt."""
        judged = self.scores is not None
        heads = ("prompt", "base", "edited", *(("score", "edited score") if judged else ()))
        rows = [(row.prompt, row.base, row.edited, *(_scores(row) if judged else ())) for row in self.rows[:MOST_ROWS]]
        return Table(
            f"Continuations: the edit changes {self.changed:.0%} of {len(self.rows)}; {self.drawn}",
            heads,
            rows,
            frozenset({0, 1, 2}),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each continuation."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def _scores(row: Continuation) -> tuple[str, str]:
    return f"{row.base_score:.3g}", f"{row.edited_score:.3g}"
