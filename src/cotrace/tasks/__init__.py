"""Tasks: benchmark files, generated prompts or a file of the user's own, as prompt pairs with a metric."""

from cotrace.arguments import door
from cotrace.tasks.agreement import agreement
from cotrace.tasks.auto_circuit import auto_circuit
from cotrace.tasks.binding import binding
from cotrace.tasks.counterfact import counterfact
from cotrace.tasks.factual_gender import factual_gender
from cotrace.tasks.greater_than import greater_than
from cotrace.tasks.info import TaskInfo
from cotrace.tasks.ioi import ioi
from cotrace.tasks.mib import mib
from cotrace.tasks.own import demo_agreement, demo_bias, demo_conflict, demo_copying, jsonl
from cotrace.tasks.preview import preview
from cotrace.tasks.professions import professions
from cotrace.tasks.registry import TASKS, load, named
from cotrace.tasks.text import text
from cotrace.tasks.winobias import winobias
from cotrace.tasks.winogender import winogender

__all__ = [
    "TASKS",
    "TaskInfo",
    "agreement",
    "auto_circuit",
    "binding",
    "counterfact",
    "demo_agreement",
    "demo_bias",
    "demo_conflict",
    "demo_copying",
    "factual_gender",
    "greater_than",
    "ioi",
    "jsonl",
    "load",
    "mib",
    "named",
    "preview",
    "professions",
    "text",
    "winobias",
    "winogender",
]

door("ct.tasks", globals(), __all__)
