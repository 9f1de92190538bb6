"""nnsight 0.8: each row of the page there and here."""

from __future__ import annotations

from functools import cache
from typing import Any

import nnsight
import torch
from torch import Tensor

import cotrace as ct
from tests.coming_from.rows import BASE, CHOSEN, OTHER, compare, difference, folder, model, pairs_of, problem, row

IDS, DONOR_IDS = pairs_of(BASE), pairs_of(OTHER)
HEADS, LAYERS, WIDTH = 4, 3, 8


@cache
def wrapped() -> Any:
    return nnsight.TransformersModel(folder(), task="text-generation", device_map="cpu", dispatch=True)


@cache
def logits() -> Tensor:
    """Of the base run."""
    lm = wrapped()
    with torch.no_grad(), lm.trace(IDS):
        found = lm.output.logits.save()
    return found  # noqa: RET504  # only bound to a name does it outlive the trace


@cache
def donor(layer: int) -> Tensor:
    """The heads' outputs in the other prompts' run, in a row: what the output projection reads."""
    lm = wrapped()
    with torch.no_grad(), lm.trace(DONOR_IDS):
        found = lm.transformer.h[layer].attn.c_proj.input.clone().save()
    return found  # noqa: RET504  # only bound to a name does it outlive the trace


def columns(head: int) -> slice:
    return slice(head * WIDTH, (head + 1) * WIDTH)


def swapped(layer: int, head: int) -> Tensor:
    """The change of each pair's logit difference when one head takes the donor's value."""
    lm, there = wrapped(), donor(layer)
    with torch.no_grad(), lm.trace(IDS):
        lm.transformer.h[layer].attn.c_proj.input[:, :, columns(head)] = there[:, :, columns(head)]
        found = lm.output.logits.save()
    return difference(found) - difference(logits())


@row('`TransformersModel("gpt2", task="text-generation")`')
def _() -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return logits()[:, -1], model().module(IDS).logits[:, -1]


@row("`with model.trace(prompt): ...`")
def _() -> tuple[Tensor, Tensor]:
    """From text, as people do."""
    lm, found = wrapped(), []
    for prompt in BASE:
        with torch.no_grad(), lm.trace(prompt):
            one = lm.output.logits.save()
        found.append(one[0, -1].log_softmax(-1))
    return torch.stack(found).gather(1, CHOSEN), problem().scores(torch.zeros(HEADS * LAYERS))


@row("`model.transformer.h[1].attn.output[0][:] = other`")
def _() -> tuple[Tensor, Tensor]:
    lm = wrapped()
    with torch.no_grad(), lm.trace(DONOR_IDS):
        other = lm.transformer.h[1].attn.output[0].clone().save()
    with torch.no_grad(), lm.trace(IDS):
        lm.transformer.h[1].attn.output[0][:] = other
        found = lm.output.logits.save()
    return difference(found) - difference(logits()), problem(["attention_output"]).effects(["L1.attn"])


@row("`model.transformer.h[1].mlp.c_proj.input[..., 7]`")
def _() -> tuple[Tensor, Tensor]:
    lm = wrapped()
    with torch.no_grad(), lm.trace(DONOR_IDS):
        other = lm.transformer.h[1].mlp.c_proj.input.clone().save()
    with torch.no_grad(), lm.trace(IDS):
        lm.transformer.h[1].mlp.c_proj.input[..., 7] = other[..., 7]
        found = lm.output.logits.save()
    return difference(found) - difference(logits()), problem(["mlp_neuron"]).effects(["L1.neuron7"])


@row("`.output.save()` of a clean run, put into a corrupted one")
def _() -> tuple[Tensor, Tensor]:
    return swapped(1, 2), problem(donors="counterfactual").effects(["L1.head2"])


@row("`with model.generate(...)` with an intervention in it")
def _() -> tuple[object, object]:
    """Four tokens with a head off."""
    lm = wrapped()
    with torch.no_grad(), lm.generate(IDS[:1], max_new_tokens=4, do_sample=False) as tracer:
        for _ in tracer.iter[:4]:
            lm.transformer.h[1].attn.c_proj.input[:, :, columns(2)] = 0
        found = tracer.result.save()
    with ct.apply(model(), ct.Selection.parse(["L1.head2"]), "zero") as module, torch.no_grad():
        ours = module.generate(IDS[:1], max_new_tokens=4, do_sample=False)
    return found.tolist(), ours.tolist()


@row("`model.edit()`")
def _() -> tuple[Tensor, Tensor]:
    lm = wrapped()
    with lm.edit() as (_, edited):
        edited.transformer.h[1].attn.c_proj.input[:, :, columns(2)] = 0
    with torch.no_grad(), edited.trace(IDS):
        found = edited.output.logits.save()
    folded = ct.editing.folded(model(), ["L1.head2"], "zero")
    with torch.no_grad():
        return found[:, -1], folded.module(IDS).logits[:, -1]


@row("a loop over layers and heads")
def _() -> tuple[Tensor, Tensor]:
    theirs = [swapped(layer, head).mean() for layer in range(LAYERS) for head in range(HEADS)]
    return torch.stack(theirs), problem().value(torch.eye(HEADS * LAYERS))


@row("`tracer.invoke(...)` several times")
def _() -> tuple[Tensor, Tensor]:
    lm, first, second = wrapped(), donor(0), donor(1)
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(IDS):
            lm.transformer.h[0].attn.c_proj.input[:, :, columns(0)] = first[:, :, columns(0)]
            one = lm.output.logits.save()
        with tracer.invoke(IDS):
            lm.transformer.h[1].attn.c_proj.input[:, :, columns(2)] = second[:, :, columns(2)]
            two = lm.output.logits.save()
    before = difference(logits()).mean()
    masks = torch.eye(HEADS * LAYERS)[[0, HEADS + 2]]
    return torch.stack([difference(both).mean() - before for both in (one, two)]), problem().value(masks)


@row("`with loss.backward(): ...grad`")
def _() -> tuple[Tensor, Tensor]:
    """The slope of the mean logit difference along each head's way to the donor."""
    lm, found = wrapped(), []
    for layer in range(LAYERS):
        with lm.trace(IDS):
            own = lm.transformer.h[layer].attn.c_proj.input
            own.requires_grad_(True)
            value = own.detach().save()
            loss = difference(lm.output.logits).mean()
            with loss.backward():
                slope = own.grad.save()
        found.append((slope * (donor(layer) - value)).unflatten(-1, (HEADS, WIDTH)).sum((0, 1, 3)))
    return torch.cat(found), problem().gradient(torch.zeros(HEADS * LAYERS))


if __name__ == "__main__":
    compare()
