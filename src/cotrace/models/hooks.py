"""Hooks: edits that read and write at a model's places, and a probe that watches one short run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.errors import ModelError, first_line
from cotrace.models.attention_interface import (
    AttentionCall,
    attention_handler,
    compute_device,
    expert_count,
    experts_hook,
)
from cotrace.models.places import OneHead, Place, Side


@dataclass(frozen=True, eq=False)
class PatternChange:
    """Change of an attention pattern, for those queries of each row that change at all."""

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
"""Tensor at a place -> the tensor that replaces it. Attention outputs come as [row, pos, head, d_head], patterns as
[row, head, query, key] (there only the change may be given), everything else as [row, pos, feature].
"""
MODULE_SIDES = ("input", "output", "experts")
Edits = Sequence[tuple[Place, Edit]]


@contextmanager
def hooked(model: PreTrainedModel, edits: Edits, eager: bool = False) -> Iterator[None]:
    """Apply each edit at its place, in order, for every forward inside; hooks and attention are restored afterwards.

    ``eager`` asks for eager attention even where no pattern is edited, so that runs with and without edits compare.
    Raises RuntimeError on a normal exit when a place was never reached: a patch that does nothing is an error.
    """
    reached: set[int] = set()

    def reach(i: int, edit: Edit, own: Tensor) -> Any:
        reached.add(i)
        return edit(own)

    modules: list[tuple[Place, Edit]] = []
    table: dict[tuple[nn.Module, str], list[tuple[int, Edit]]] = {}
    for i, (place, edit) in enumerate(edits):
        own = edit if place.head is None else _of_head(place.head, place.side, edit)
        if place.side in MODULE_SIDES:
            modules.append((place, partial(reach, i, own)))
        else:
            table.setdefault((place.module, place.side), []).append((i, own))
    with ExitStack() as stack:
        if modules:
            _hook_modules(stack, modules)
        if table or eager:
            stack.enter_context(_attending(model, table, reached, eager))
        yield
        missed = [str(place) for i, (place, _) in enumerate(edits) if i not in reached]
        if missed:
            raise RuntimeError(f"the forward pass never reached {', '.join(missed)}")


def _of_head(head: OneHead, side: Side, edit: Edit) -> Edit:
    """Let an edit see and change one head's values only."""
    axis, start, count = (-2, head.unit, 1) if side == "attention" else (-1, head.where.start, head.width)

    def apply(own: Tensor) -> Tensor:
        mine = own.narrow(axis, start, count)
        changed: Tensor = edit(mine)
        return own if changed is mine else own.slice_scatter(changed, axis, start, start + count)

    return apply


def _hook_modules(stack: ExitStack, edits: Edits) -> None:
    for place, edit in _by_place(edits):
        if place.side == "input":
            handle = place.module.register_forward_pre_hook(_input_hook(edit))
        elif place.side == "experts":
            handle = place.module.register_forward_hook(experts_hook(edit, place.units), with_kwargs=True)
        else:
            handle = place.module.register_forward_hook(_output_hook(_scaled(edit, place.factor)))
        stack.callback(handle.remove)


def _by_place(edits: Edits) -> Iterator[tuple[Place, Edit]]:
    """Group edits by place; those of experts together at the first one's turn, as each expert's output is computed
    once, and each edit must see what the ones before it have made of that.
    """
    experts: dict[nn.Module, list[Edit]] = {}
    for place, edit in edits:
        if place.side != "experts":
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


def _attending(
    model: PreTrainedModel,
    table: Mapping[tuple[nn.Module, str], Sequence[tuple[int, Edit]]],
    reached: set[int],
    eager: bool,
) -> AbstractContextManager[None]:
    """The numbered edits of attention outputs and patterns in force; ``reached`` takes the numbers of those made."""

    def handle(module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        if patterns := table.get((module, "pattern")):
            assert weights is not None, "eager attention gives its weights"
            reached.update(i for i, _ in patterns)
            edits = [edit for _, edit in patterns]
            output, weights = _edit_pattern(output, weights, call.value, edits, kept=not call.outermost)
        return output, weights

    def after(module: nn.Module, output: Tensor) -> Tensor:
        for i, edit in table.get((module, "attention"), ()):
            reached.add(i)
            output = edit(output)
        return output

    if any(side == "pattern" for _, side in table):
        return attention_handler(model, handle, eager=True, after=after)
    return attention_handler(model, None, eager=eager, after=after)


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


REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""Errors that a model may raise when it is called in a way that it does not support."""
PROBE_ROWS, PROBE_TOKENS = 2, 3
"""Different, so that a tensor laid out [pos, row] is not taken for [row, pos]."""
CLOSE = 1e-3
"""Error that a proof forgives."""


@dataclass(frozen=True)
class Heads:
    """The shapes of one attention call."""

    count: int
    kv_count: int
    width: int
    """Numbers in one head's output."""
    order: int
    """When the call was made, on the same clock as ``Trace.order``."""


@dataclass
class Trace:
    """Record of a watched run. A module that ran several times is known by its last run; ``calls`` counts the runs."""

    attention: dict[nn.Module, Heads] = field(default_factory=dict)
    linear: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    """Matrix -> (features in, features out)."""
    experts: dict[nn.Module, int] = field(default_factory=dict)
    """Module that runs the chosen experts -> number of experts."""
    order: dict[nn.Module, int] = field(default_factory=dict)
    """When each module finished."""
    calls: Counter[nn.Module] = field(default_factory=Counter)
    patterns: set[nn.Module] = field(default_factory=set)
    """Attention modules whose output is their weights times their values, so that a pattern can be patched."""
    entered: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The first tensor that a module was given."""
    beside: dict[nn.Module, tuple[Tensor, ...]] = field(default_factory=dict)
    """All floating tensors that a module was given."""
    left: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The first tensor that a module gave."""

    clock: int = 0

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    def width(self, module: nn.Module) -> int | None:
        """Numbers per token in the module's output; None where it is not laid out row by row, token by token."""
        return token_width(self.left.get(module))

    def once(self, module: nn.Module) -> bool:
        """Whether the module ran exactly once: a place that is passed twice is not one place."""
        return self.calls[module] == 1


def token_width(value: Tensor | None) -> int | None:
    """Last axes of ``[row, pos, ...]`` or ``[row * pos, ...]`` for the probe's rows and positions."""
    if value is None or value.ndim < 2:
        return None
    rows = value.shape[:2] == (PROBE_ROWS, PROBE_TOKENS) and value.ndim > 2
    flat = value.shape[0] == PROBE_ROWS * PROBE_TOKENS
    return value.numel() // (PROBE_ROWS * PROBE_TOKENS) if rows or flat else None


def probe_ids(model: PreTrainedModel) -> Tensor:
    """A few different tokens, [row, pos]."""
    count, vocabulary = PROBE_ROWS * PROBE_TOKENS, model.get_input_embeddings().weight.shape[0]
    ids: Tensor = (5 + 3 * torch.arange(count, device=compute_device(model))) % vocabulary
    return ids.reshape(PROBE_ROWS, PROBE_TOKENS)


@contextmanager
def headless(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Give the output head no token to read, as its matrix is the largest; the list takes what it would have read."""
    read: list[Tensor] = []

    def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read.append(args[0])
        return (args[0][..., :0, :], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(narrow)
    try:
        yield read
    finally:
        handle.remove()


def watch(model: PreTrainedModel, eager: bool = False) -> Trace:
    """Run the probe through the model and note what happens; patterns are seen with ``eager`` attention only.

    Raises ModelError; UnsupportedSite where eager attention is asked for and there is none.
    """
    trace = Trace()

    def note_attention(module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        trace.attention[module] = Heads(output.shape[2], call.key.shape[1], output.shape[3], trace.tick())
        if weights is not None and _multiplied(weights, call.value, output):
            trace.patterns.add(module)
        return output, weights

    with ExitStack() as stack:
        for module in model.modules():
            handle = module.register_forward_hook(_noter(trace), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(attention_handler(model, note_attention, eager=eager))
        stack.enter_context(torch.no_grad())
        try:
            model(input_ids=probe_ids(model), use_cache=False)
        except REFUSALS as error:
            raise ModelError(
                f"{type(model).__name__} does not run on token ids alone ({first_line(error)}): "
                "cotrace traces decoders that do"
            ) from error
    return trace


def _multiplied(weights: Tensor, value: Tensor, output: Tensor) -> bool:
    """Whether the output is the weights times the values."""
    fits = weights.ndim == 4 and weights.shape[-1] == value.shape[2]
    return fits and torch.allclose(attend(weights, value), output, rtol=CLOSE, atol=CLOSE)


def varies(value: Tensor) -> bool:
    """Whether the tokens differ, where only a bias can be left."""
    tokens = value.reshape(-1, value.shape[-1]).float()
    return bool((tokens - tokens[:1]).abs().max() > CLOSE * tokens.abs().max().clamp(min=CLOSE))


def _noter(trace: Trace) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        trace.calls[module] += 1
        trace.order[module] = trace.tick()
        given = args[0] if args else kwargs.get("hidden_states")
        made = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(given, Tensor) and isinstance(made, Tensor):
            trace.entered[module], trace.left[module] = given, made
            floats = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
            trace.beside[module] = tuple(floats)
            if _is_linear(module) and given.is_floating_point() and isinstance(output, Tensor):
                trace.linear[module] = (given.shape[-1], made.shape[-1])
        if isinstance(output, Tensor) and (count := expert_count(module, args, kwargs)):
            trace.experts[module] = count

    return note


def _is_linear(module: nn.Module) -> bool:
    """Whether the module is a matrix of its own: a leaf with a two-dimensional weight (Linear, Conv1D, quantised)."""
    weight = getattr(module, "weight", None)
    return not list(module.children()) and isinstance(weight, Tensor) and weight.ndim == 2
