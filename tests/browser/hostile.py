"""A report all of whose texts try to be something else, with heads, whole layers and many neurons in its space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cotrace.components import Component, ComponentSpace, Site
from cotrace.readout import Acting, Alone, Arrow, Card, Explanation, Look, Paths, Read, Written
from cotrace.readout import Example as Patterns
from cotrace.report import ReportInputs, report_html
from cotrace.report.page import Example, Examples, Piece
from cotrace.report.page.inputs import compared
from cotrace.results.effects import EffectTable
from tests.report.frontiers import frontier

TEXTS = (
    "<script>window.broken = true</script>",
    "</script><img src=x onerror='window.broken = true'>",
    "<!-- never closed",
    "<!--<script>",
    "\"quotes\" 'and' `ticks` & &amp; &lt;b&gt;",
    "\u202eright to left override\u202c and \u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "emoji \U0001f469\U0001f3fd\u200d\U0001f52c \U0001f3f4\u200d\u2620\ufe0f and e\u0301\u0323\u0301\u0323",
    "long " + "x" * 10_000,
    "{{ 7 * 7 }} {% raw %} ${window.broken = true}",
    "line\nbreak\ttab \u2028 separators \u2029 and \x07 bell",
    "javascript:alert(1)",
    "]]><svg onload=alert(1)>",
)

SPACE = ComponentSpace(
    (
        *(Component(Site.HEAD_OUTPUT, layer, unit) for layer in range(3) for unit in range(4)),
        *(Component(Site.MLP_OUTPUT, layer) for layer in range(3)),
        *(Component(Site.MLP_NEURON, layer, unit) for layer in range(3) for unit in range(100)),
        Component(Site.HEAD_OUTPUT, 1, 0, "subject"),
    )
)
SETS = [
    ["L1.head2"],
    ["L1.head2", "L2.neuron7"],
    ["L1.head2", "L2.neuron7", "L2.neuron99"],
    ["L1.head2", "L1.mlp", "L2.neuron7", "L2.neuron99", "L1.head0@subject"],
]


def cut(text: str) -> Piece:
    """A text cut after every space."""
    ends = [i + 1 for i, sign in enumerate(text) if sign == " "]
    return Piece(text, tuple(dict.fromkeys([*ends, len(text)])))


def example(text: str, i: int) -> Example:
    """A pair whose every field is the text."""
    base, donor = compared(cut(f"{text} base"), cut(f"{text} donor"))
    return Example(f"{i} {text[:60]}", base, donor, (text, "other"), fields={"group": text[:80], "kind": "<b>bold</b>"})


def explanation() -> Explanation:
    """Of two members that are one arrow, every text in it hostile."""
    names = ("L1.head2", "L2.neuron7")
    alone = [Alone(component=name, effect=1.0 + i, interval=None) for i, name in enumerate(names)]
    arrow = Arrow(source=names[0], target=names[1], effect=0.5, interval=None, share=0.5, kind="inhibiting")
    tokens = tuple((text, 1.0) for text in TEXTS[:4])
    looks = (Look(query=TEXTS[0], key=TEXTS[1], base=0.9, donor=None),)
    patterns = {names[0]: tuple(tuple(1.0 for _ in TEXTS) for _ in TEXTS)}
    return Explanation(
        model=TEXTS[2],
        task=TEXTS[0],
        metric=TEXTS[1],
        donors=TEXTS[3],
        pairs="2 pairs",
        cards=tuple(
            Card(
                component=one.component,
                alone=one,
                read=Read(component=one.component, attends=i == 0, looks=looks, tokens=tokens),
                written=Written(component=one.component, base=1.0, donor=2.0, promoted=tokens, suppressed=tokens),
                direct=0.5,
                direct_interval=None,
                acting=(Acting(component=one.component, where=TEXTS[4], effect=1.0, interval=None, pairs=2),),
                known=(TEXTS[5],),
                words=TEXTS[0],
            )
            for i, one in enumerate(alone)
        ),
        paths=Paths(together=3.0, together_interval=None, members=tuple(alone), arrows=(arrow,), pairs="2 pairs"),
        logit_difference=1.0,
        parts=((TEXTS[0], 1.0),),
        examples=(Patterns(pair=TEXTS[1], run="base", tokens=TEXTS, patterns=patterns),),
        notes=(TEXTS[1],),
    )


def inputs() -> ReportInputs:
    """A frontier of four sizes over the space, and an effect of each on every hostile pair."""
    one = frontier(SETS, [1.0, 2.0, 3.0, 2.5], space=SPACE, task="<script>task</script>", summary=TEXTS[1])
    chosen = np.zeros((len(SETS), len(SPACE)), bool)
    for row, names in zip(chosen, SETS, strict=True):
        row[list(SPACE.indices(map(Component.parse, names)))] = True
    draw = np.random.default_rng(0)
    tables = [EffectTable.of(chosen, draw.normal(size=(len(SETS), len(TEXTS)))) for _ in range(2)]
    pairs = [tuple(example(text, i) for i, text in enumerate(TEXTS, start)) for start in (0, 100)]
    return ReportInputs(
        (replace(one, effects=tables[0], effects_heldout=tables[1]),),
        examples=Examples(pairs[0], pairs[1]),
        explanation=explanation(),
        config={"model": TEXTS[2], "task": TEXTS[0], "seed": 0, "record": {"versions": {"x": TEXTS[3]}}},
    )


def hostile_page() -> bytes:
    """The report of it."""
    return report_html(inputs())
