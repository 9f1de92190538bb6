"""``cotrace demo``: the whole journey on the model that ships."""

from __future__ import annotations

import time

from cotrace.cli.answer import COMPARED, run
from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.pairs import pair_lines
from cotrace.cli.screen import Screen
from cotrace.runs import RunConfig, RunDirectory
from cotrace.runs.config_file import SHIPPED
from cotrace.runs.prepare import Prepared, prepare

CONFIG = RunConfig(
    model=SHIPPED,
    task="demo_conflict",
    searches=COMPARED,
    max_size=16,
    # On log-odds that move by 16 the bounded losses are flat long before all heads count: the linear one is not.
    search_options={"pgbct": {"path": 12, "transformation": "linear"}},
)
FOLDER = "cotrace-demo"


@own_threads()
def demo(out: str | None, quiet: bool = False, as_json: bool = False) -> None:
    """Trace a planted bias in the model that ships with five searches, and say what is seen. Raises CotraceError."""
    began = time.perf_counter()
    directory = RunDirectory.claim(out) if out else RunDirectory.next_free(FOLDER)
    screen = Screen(quiet, as_json)
    quiet_libraries()
    prepared = prepare(CONFIG)
    introduce(prepared, screen)
    run(prepared, directory, screen)
    screen.say(f"{time.perf_counter() - began:.0f} s. Now a model of your own: cotrace trace --help")


def introduce(prepared: Prepared, screen: Screen) -> None:
    """The model, one pair, and what will be done to them."""
    model, problem = prepared.model, prepared.problem
    layers, parameters = len(model.layers), model.module.num_parameters()
    screen.say(f"The model: {layers} layers, {parameters / 1e6:.1f} million parameters; it ships with cotrace.")
    screen.say(
        f"The data: {len(prepared.task)} pairs of prompts, {problem.size} searched, the rest held out. One of them:"
    )
    for line in pair_lines(prepared.task.pairs[0]):
        screen.say(line)
    screen.say("The question: which heads, together, make the model answer one prompt as it answers the other?\n")
