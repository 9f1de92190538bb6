"""Taps: read or replace the tensors at places while the model runs; all is as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.models.experts import experts_hook
from cotrace.models.internals import AttentionCall, attention_handler
from cotrace.models.places import Place


@dataclass(frozen=True, eq=False)
class PatternChange:
    """What is added to an attention pattern, for those queries of each row that change at all."""

    queries: Int[Tensor, "row query"]
    """Places in the row; one that is named twice has a change of zero at the second."""
    change: Float[Tensor, "row head query key"]

    def on_weights(self, weights: Float[Tensor, "row head all key"]) -> Float[Tensor, "row head all key"]:
        """The pattern with the change."""
        return weights.scatter_add(2, self.queries[:, None, :, None].expand_as(self.change), self.change)

    def on_output(
        self, output: Float[Tensor, "row all head d_head"], value: Float[Tensor, "row kv_head key d_head"]
    ) -> Float[Tensor, "row all head d_head"]:
        """The attention output with the change, in which it is linear."""
        moved = attend(self.change, value)
        flat = self.queries + output.shape[1] * torch.arange(len(output), device=output.device)[:, None]
        return output.flatten(0, 1).index_add(0, flat.flatten(), moved.flatten(0, 1)).reshape(output.shape)


Edit = Callable[[Tensor], Any]
"""Tensor at a place -> what goes on in its stead. Attention outputs come as [row, pos, head, d_head], patterns as
[row, head, query, key] (there only the change may be given), everything else as [row, pos, feature]."""
MODULE_TAPS = ("input", "output", "experts")
TapList = Sequence[tuple[Place, Edit]]


@contextmanager
def tapped(model: PreTrainedModel, taps: TapList, eager: bool = False) -> Iterator[None]:
    """Apply each edit at its place, in order, for every forward inside; hooks and attention are restored afterwards.

    ``eager`` asks for eager attention even where no pattern is tapped, so that runs with and without taps compare.
    Raises RuntimeError on a normal exit when a place was never reached: a patch that does nothing is an error.
    """
    reached: set[int] = set()

    def counted(i: int, edit: Edit) -> Edit:
        def apply(own: Tensor) -> Any:
            reached.add(i)
            return edit(own)

        return apply

    edits = [(place, counted(i, edit)) for i, (place, edit) in enumerate(taps)]
    with ExitStack() as stack:
        _hook_modules(stack, [(p, e) for p, e in edits if p.tap in MODULE_TAPS])
        _hook_attention(stack, model, [(p, e) for p, e in edits if p.tap not in MODULE_TAPS], eager)
        yield
        missed = [str(place) for i, (place, _) in enumerate(taps) if i not in reached]
        if missed:
            raise RuntimeError(f"the forward pass never reached {', '.join(missed)}")


def _hook_modules(stack: ExitStack, edits: TapList) -> None:
    for place, edit in _by_place(edits):
        if place.tap == "input":
            handle = place.module.register_forward_pre_hook(_input_hook(edit))
        elif place.tap == "experts":
            handle = place.module.register_forward_hook(experts_hook(edit, place.units), with_kwargs=True)
        else:
            handle = place.module.register_forward_hook(_output_hook(_scaled(edit, place.factor)))
        stack.callback(handle.remove)


def _by_place(edits: TapList) -> Iterator[tuple[Place, Edit]]:
    """Those of experts together at the first one's turn, for what each expert gives is computed once, and each edit
    must see what the ones before it have made of that."""
    experts: dict[nn.Module, list[Edit]] = {}
    for place, edit in edits:
        if place.tap != "experts":
            yield place, edit
        elif place.module not in experts:
            experts[place.module] = [edit for other, edit in edits if other == place]
            yield place, _in_turn(experts[place.module])


def _in_turn(edits: Sequence[Edit]) -> Edit:
    def apply(own: Tensor) -> Tensor:
        for edit in edits:
            own = edit(own)
        return own

    return apply


def _scaled(edit: Edit, factor: float) -> Edit:
    """The edit of the tensor times the factor, brought back: exactly nothing where the edit changes nothing."""

    def apply(own: Tensor) -> Tensor:
        value = factor * own
        changed: Tensor = edit(value)
        return own if changed is value else own + (changed - value) / factor

    return edit if factor == 1 else apply


def _input_hook(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit(args[0]), *args[1:])

    return hook


def _output_hook(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        changed = (edit(output[0]), *output[1:])
        return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)

    return hook


def _hook_attention(stack: ExitStack, model: PreTrainedModel, edits: TapList, eager: bool) -> None:
    if not edits and not eager:
        return
    table: dict[tuple[nn.Module, str], list[Edit]] = {}
    for place, edit in edits:
        table.setdefault((place.module, place.tap), []).append(edit)

    def handle(module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        if patterns := table.get((module, "pattern")):
            assert weights is not None, "eager attention gives its weights"
            output, weights = _edit_pattern(output, weights, call.value, patterns, kept=not call.outermost)
        return output, weights

    def after(module: nn.Module, output: Tensor) -> Tensor:
        for edit in table.get((module, "attention"), ()):
            output = edit(output)
        return output

    eager = eager or any(place.tap == "pattern" for place, _ in edits)
    stack.enter_context(attention_handler(model, handle, eager=eager, after=after))


def _edit_pattern(
    output: Tensor, weights: Tensor, value: Tensor, edits: Sequence[Edit], *, kept: bool
) -> tuple[Tensor, Tensor]:
    """The output is linear in the weights, so only their change is multiplied with the running values.

    ``kept``: whether the weights are read once more, so that the last edit must be in them too.
    """
    for number, edit in enumerate(edits, start=1):
        edited = edit(weights)
        if isinstance(edited, PatternChange):
            output = edited.on_output(output, value)
            weights = edited.on_weights(weights) if kept or number < len(edits) else weights
        elif edited is not weights:
            output, weights = output + attend(edited - weights, value), edited
    return output, weights


def attend(weights: Tensor, value: Tensor) -> Tensor:
    """Weights [row, head, query, key] on grouped values [row, kv_head, key, d] -> [row, query, head, d]."""
    rows, heads, queries, keys = weights.shape
    grouped = weights.reshape(rows, value.shape[1], -1, keys) @ value
    return grouped.reshape(rows, heads, queries, -1).transpose(1, 2)
