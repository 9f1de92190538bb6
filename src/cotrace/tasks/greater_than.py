"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a number above 32.

Hanna et al. 2023, *How does GPT-2 compute greater-than?* (arXiv 2305.00586). Generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cotrace.arguments import checked
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.generate import distinct
from cotrace.tasks.info import TaskInfo

EVENTS = ("war", "siege", "voyage", "reign", "strike", "trial", "drought", "conflict", "festival", "journey", "debate")
CENTURIES = (12, 13, 14, 15, 16, 17)
"""Outside these GPT-2's tokenizer often splits a year elsewhere, so that no answer would follow the prompt."""


@dataclass(frozen=True)
class Period:
    """A start year, one that is earlier, and an end on either side of the start; all in two digits."""

    event: str
    century: int
    start: int
    earlier: int
    """The counterfactual's start year: below both ends, so that either is a fair answer."""
    above: int
    below: int

    def prompt(self, start: int) -> str:
        return f"The {self.event} lasted from the year {self.century}{start:02d} to the year {self.century}"


@checked("ct.tasks.greater_than")
def greater_than(*, size: int = 200, seed: int = 0) -> Task:
    """Prompts with two answers, one end year above the start (right) and one below it (wrong).

    In the counterfactual the start year lies below both. The odds are p(below) / p(above). Hanna et al. sum over all
    two-digit years; one of each kind keeps the answers' number the same for every tokenizer. Raises InputError.
    """
    periods = distinct("greater_than", size, seed, lambda random, _: _period(random))
    pairs = tuple(_pair(period, f"{i:04d}") for i, period in enumerate(periods))
    return Task(name="greater_than", pairs=pairs, source=f"generated, seed {seed}")


def _period(random: Random) -> Period:
    earlier, below, start, above = sorted(random.sample(range(2, 99), 4))
    return Period(random.choice(EVENTS), random.choice(CENTURIES), start, earlier, above, below)


def _pair(period: Period, name: str) -> PromptPair:
    base = period.prompt(period.start)
    year = base.index(f"{period.century}{period.start:02d}")
    spans = {"start": (year, year + 4), "event": (4, 4 + len(period.event))}
    return PromptPair(
        id=name,
        base=base,
        counterfactual=period.prompt(period.earlier),
        answers=(f"{period.above:02d}", f"{period.below:02d}"),
        target=0,
        group=f"{period.century}00s",
        split_group=f"{period.century}{period.start:02d}",
        spans=spans,
        counterfactual_spans=spans,
        meta={"gap_years": period.above - period.start},
    )


INFO = TaskInfo(
    name="greater_than",
    about="does an end year lie above the start year?",
    source="greater-than, Hanna et al. 2023, arXiv 2305.00586; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=greater_than,
)
