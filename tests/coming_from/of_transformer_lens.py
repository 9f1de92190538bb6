"""TransformerLens 4: each row of the page there and here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

import cotrace as ct
from tests.coming_from.rows import BASE, OTHER, compare, difference, folder, model, problem, row, task

HEADS, LAYERS = 4, 3


@cache
def bridge() -> Any:
    return TransformerBridge.boot_transformers(folder(), device="cpu")


@cache
def base() -> Tensor:
    return bridge().to_tokens(BASE, prepend_bos=False)


@cache
def donors() -> Any:
    """Activations of the other prompts' run."""
    return bridge().run_with_cache(bridge().to_tokens(OTHER, prepend_bos=False))[1]


def patched(name: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The change of each pair's logit difference under a hook."""
    hooks = [(name, lambda value, hook: change(value.clone()))]
    with torch.no_grad():
        return difference(bridge().run_with_hooks(base(), fwd_hooks=hooks)) - difference(bridge()(base()))


def unit(donor: Tensor, i: int, value: Tensor) -> Tensor:
    """Unit i of the donor's."""
    value[:, :, i] = donor[:, :, i]
    return value


@row('`TransformerBridge.boot_transformers("gpt2")`')
def _() -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return bridge()(base())[:, -1], model().module(base()).logits[:, -1]


@row("`model.to_str_tokens(prompt, prepend_bos=False)`")
def _() -> tuple[object, object]:
    """The tokens of base and counterfactual prompts, which stand apart by | in the table."""
    rows = ct.tasks.preview(task(), model().tokenizer).rows
    ours = [row[3] for row in rows if row[1] in ("base", "counterfactual")]
    both = [one for pair in zip(BASE, OTHER, strict=True) for one in pair]
    return ["|".join(bridge().to_str_tokens(one, prepend_bos=False)) for one in both], ours


@row("clean and corrupted prompts as two batches")
def _() -> tuple[object, object]:
    pairs = problem().encoding.pairs
    both = [bridge().to_tokens(words, prepend_bos=False).tolist() for words in (BASE, OTHER)]
    return both, [[list(one.prompt) for one in pairs], [list(one.donor) for one in pairs]]


@row("`logits[:, -1, a] - logits[:, -1, b]`")
def _() -> tuple[Tensor, Tensor]:
    """Of each pair, and their mean."""
    with torch.no_grad():
        theirs = difference(bridge()(base()))
    scores = problem().scores(torch.zeros(HEADS * LAYERS))
    mean = ct.measure(model(), task(), metric="logit_diff").overall.base
    return torch.cat([theirs, theirs.mean()[None]]), torch.cat([scores[:, 0] - scores[:, 1], torch.tensor([mean])])


@row('`model.run_with_hooks(..., fwd_hooks=[("blocks.1.attn.hook_z", patch)])`')
def _() -> tuple[Tensor, Tensor]:
    name = "blocks.1.attn.hook_z"
    return patched(name, partial(unit, donors()[name], 2)), problem().effects(["L1.head2"])


def mean_difference(logits: Tensor) -> Tensor:
    return difference(logits).mean()


@row("`patching.get_act_patch_attn_head_out_all_pos`")
def _() -> tuple[Tensor, Tensor]:
    theirs = patching.get_act_patch_attn_head_out_all_pos(bridge(), base(), donors(), mean_difference)
    before = mean_difference(bridge()(base()))
    ours = problem()
    return (theirs - before).flatten(), ours.value(torch.eye(len(ours.space)))


@row("`patching.get_act_patch_attn_head_out_by_pos`")
def _() -> tuple[Tensor, Tensor]:
    """Their [layer, position, head]; here the subject is the second word, and the last the fifth."""
    theirs = patching.get_act_patch_attn_head_out_by_pos(bridge(), base(), donors(), mean_difference)
    before = mean_difference(bridge()(base()))
    ours = problem(roles=["subject", "last"], align="spans")
    singles = ours.value(torch.eye(len(ours.space)))
    places = [(one.layer, {"subject": 1, "last": 4}[one.role], one.unit) for one in ours.space]
    return torch.stack([theirs[place] for place in places]) - before, singles


@row("attribution patching with backward hooks")
def _() -> tuple[Tensor, Tensor]:
    values: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(LAYERS)]

    def keep(kept: dict[str, Tensor], name: str) -> Callable[..., None]:
        """A hook; its own name may be another one for the same place."""
        return lambda value, hook: kept.update({name: value.detach()})

    forward, backward = ([(name, keep(kept, name)) for name in names] for kept in (values, slopes))
    with bridge().hooks(fwd_hooks=forward, bwd_hooks=backward):
        mean_difference(bridge()(base())).backward()
    theirs = [(slopes[n] * (donors()[n] - values[n])).sum((0, 1, 3)) for n in names]
    ours = problem()
    return torch.cat(theirs), ours.gradient(torch.zeros(len(ours.space)))


@row("zero or mean ablation hooks")
def _() -> tuple[Tensor, Tensor]:
    name = "blocks.1.attn.hook_z"
    mean = bridge().run_with_cache(base())[1][name].mean((0, 1), keepdim=True).expand(3, 5, -1, -1)
    there = [patched(name, partial(unit, donor, 2)) for donor in (torch.zeros_like(mean), mean)]
    here = [problem(donors=one).effects(["L1.head2"]) for one in ("zero", "mean=task")]
    return torch.cat(there), torch.cat(here)


def whole(donor: Tensor, value: Tensor) -> Tensor:
    return donor


def head_pattern(donor: Tensor, value: Tensor) -> Tensor:
    value[:, 2] = donor[:, 2]
    return value


@row("`hook_z`, `hook_pattern`, `hook_mlp_out`, `hook_post`, `hook_resid_post`")
def _() -> tuple[Tensor, Tensor]:
    rows: list[tuple[str, str, str, Any]] = [
        ("attn.hook_z", "head_output", "L1.head2", lambda d: partial(unit, d, 2)),
        ("attn.hook_pattern", "attention_pattern", "L1.pattern2", lambda d: partial(head_pattern, d)),
        ("hook_mlp_out", "mlp_output", "L1.mlp", lambda d: partial(whole, d)),
        ("mlp.hook_post", "mlp_neuron", "L1.neuron7", lambda d: partial(unit, d, 7)),
        ("hook_resid_post", "residual", "L1.resid", lambda d: partial(whole, d)),
    ]
    there = [patched(f"blocks.1.{hook}", change(donors()[f"blocks.1.{hook}"])) for hook, _, _, change in rows]
    return torch.cat(there), torch.cat([problem([site]).effects([name]) for _, site, name, _ in rows])


if __name__ == "__main__":
    compare()
