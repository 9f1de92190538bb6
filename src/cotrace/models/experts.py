"""One expert's contribution in a mixture-of-experts MLP, without rewriting the mixture.

In transformers 5 the chosen experts run in one module, ``experts(hidden, index, weight)``, whose output is linear in
the routing weights: for a token, the sum over its k chosen experts of ``weight * expert(hidden)``. Called once more
with every token repeated k times, each copy with one of its experts, the same module gives each contribution by itself,
at the same number of multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


def expert_count(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many experts the module runs, judged by how it was called; 0 where it is no such module."""
    try:
        hidden, index, weight = routed_inputs(args, kwargs)
    except ValueError:
        return 0
    fits = index.shape == weight.shape and index.ndim == 2 and hidden.shape[:-1].numel() == len(index)
    matrices = [len(p) for p in module.parameters(recurse=False) if p.ndim == 3]
    count = getattr(module, "num_experts", matrices[0] if matrices else 0)
    return int(count) if fits and matrices else 0


def routed_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, expert indices and routing weights of a call. Raises ValueError for a call of another form."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    floats = [value for value in given if value.is_floating_point()]
    if len(given) != 3 or len(floats) != 2:
        raise ValueError("not a call of routed experts")
    return floats[0], next(value for value in given if not value.is_floating_point()), floats[1]


def _again(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], swaps: Mapping[int, Tensor]) -> Tensor:
    """The same call with other tensors in the places of those that have these ids; hooks do not run again."""
    output = module.forward(
        *(swaps.get(id(value), value) for value in args),
        **{name: swaps.get(id(value), value) for name, value in kwargs.items()},
    )
    assert isinstance(output, Tensor)
    return output


def contributions(
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Float[Tensor, "token d_model"],
    index: Int[Tensor, "token chosen"],
    weight: Float[Tensor, "token chosen"],
    count: int,
) -> Float[Tensor, "token expert d_model"]:
    """What each expert adds to the output for each token; zero where it was not chosen."""
    tokens, chosen = index.shape
    alone = run(hidden.repeat_interleave(chosen, 0), index.reshape(-1, 1), weight.reshape(-1, 1))
    at = index.clamp(max=count)  # transformers marks "no expert" with the index behind the last
    table = alone.new_zeros(tokens, count + 1, alone.shape[-1])
    spread = at[..., None].expand(-1, -1, alone.shape[-1])
    return table.scatter_add(1, spread, alone.reshape(tokens, chosen, -1))[:, :count]


def experts_hook(edit: Callable[[Tensor], Tensor], count: int) -> Callable[..., Any]:
    """A forward hook that edits the contributions [row * pos, expert * d_model] and adds their change to the output."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        hidden, index, weight = routed_inputs(args, kwargs)
        flat = hidden.reshape(-1, hidden.shape[-1])

        def run(hidden_: Tensor, index_: Tensor, weight_: Tensor) -> Tensor:
            return _again(module, args, kwargs, {id(hidden): hidden_, id(index): index_, id(weight): weight_})

        own = contributions(run, flat, index, weight, count)
        edited = edit(own.reshape(len(own), -1))
        change = (edited - own.reshape(len(own), -1)).reshape(own.shape).sum(1)
        return output + change.reshape(output.shape).to(output.dtype)

    return hook
