"""Shortcuts: runs that agree with a reference run below some layer start there, from what the reference run gave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cotrace.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Entry:
    """Where a run starts, and the residual stream that enters that layer."""

    start: int
    hidden: Tensor
    """[row, pos, d_model]"""


@dataclass(eq=False)
class Stations:
    """What a reference run leaves behind: the residual stream that entered each of the layers asked for."""

    wanted: Collection[int]
    entries: dict[int, Entry] = field(default_factory=dict)
    plain: bool = True
    """Whether every layer gave a single tensor, so that a layer can be passed by."""


@contextmanager
def noting(model: LanguageModel, stations: Stations) -> Iterator[None]:
    """Fill the stations during the forward pass inside."""
    with ExitStack() as stack:
        for layer in model.layers:
            stack.callback(layer.module.register_forward_hook(_note_form(stations)).remove)
            if layer.index in stations.wanted:
                hook = _note_hidden(stations, layer.index)
                stack.callback(layer.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _note_form(stations: Stations) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            stations.plain = False

    return hook


def _note_hidden(stations: Stations, index: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stations.entries[index] = Entry(index, args[0] if args else kwargs["hidden_states"])

    return hook


@contextmanager
def entering(model: LanguageModel, entry: Entry, copies: int) -> Iterator[None]:
    """Layers below the entry are passed by, and that layer is given the entry's hidden states, one for each copy."""

    def replace_hidden(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = entry.hidden.repeat(copies, 1, 1)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    with ExitStack() as stack:
        for layer in model.layers[: entry.start]:
            stack.enter_context(_passed_by(layer.module))
        at = model.layers[entry.start].module
        stack.callback(at.register_forward_pre_hook(replace_hidden, with_kwargs=True).remove)
        yield


@contextmanager
def _passed_by(module: nn.Module) -> Iterator[None]:
    """The module gives back what it is given. Only the instance is touched, and it is as before afterwards."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]

    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
