"""Tasks: benchmark files, generated prompts or a file of the user's own, as prompt pairs with a metric."""

from cotrace.tasks._files import TaskInfo
from cotrace.tasks.catalogue import TASKS, load, named, preview
from cotrace.tasks.facts import counterfact, factual_gender, professions
from cotrace.tasks.generated import agreement, binding, greater_than
from cotrace.tasks.ioi import auto_circuit, ioi
from cotrace.tasks.mib import mib
from cotrace.tasks.texts import demo_agreement, demo_bias, demo_conflict, demo_copying, jsonl, text
from cotrace.tasks.winograd import winobias, winogender
from cotrace.validation import door

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
