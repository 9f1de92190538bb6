"""``folded``: a selection's edit written into the weights, proven equal to the hooked model on a few tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cotrace.components import ERROR_SITES, FEATURE_SITES, Site
from cotrace.donors import DonorSource
from cotrace.editing.apply import changed
from cotrace.editing.changes import Change, FeatureChange, changes
from cotrace.editing.matrices import Matrix, matrix_of
from cotrace.errors import UnsupportedSite
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.models.watch import Trace, probe_ids, watch
from cotrace.prompts import Task
from cotrace.results import Selection, selection_of

CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference between the folded and the hooked model, by number type; some norms compute in float32 always."""
COLUMN_SITES = frozenset({Site.HEAD_OUTPUT, Site.KV_GROUP, Site.MLP_NEURON})
NOT_FOLDED = {
    Site.RESIDUAL: "a layer's output is a sum that no single matrix makes",
    **dict.fromkeys(FEATURE_SITES, "which features are active is decided token by token"),
    **dict.fromkeys(ERROR_SITES, "which features are active, and so what they leave, is decided token by token"),
    Site.EXPERT: "what an expert adds is weighed by the router, token by token",
}


def folded(
    model: LanguageModel,
    selection: Selection | Sequence[str],
    donor: str | DonorSource = "zero",
    *,
    reference: Task | None = None,
) -> LanguageModel:
    """A copy of the model whose weights hold the edit; the model itself stays as it is.

    ``zero`` and ``scale`` go into the columns of the projection that heads or neurons enter, or into the rows of the
    one that a whole layer or coordinate leaves; ``mean`` and ``vector`` go into its bias as well. Raises
    UnsupportedSite with the reason where that is not exact; ``apply`` does the same without touching weights.
    """
    return fold_changes(model, changes(model, selection_of("ct.editing.folded", selection), donor, reference))


def fold_changes(model: LanguageModel, edits: Sequence[Change | FeatureChange]) -> LanguageModel:
    """A copy of the model whose weights hold these changes. Raises UnsupportedSite."""
    check_plain(model)
    trace = _watched(model)
    matrices = [_matrix(model, trace, change) for change in edits]
    plain = [change for change in edits if isinstance(change, Change)]  # of features none comes as far as this
    for change, matrix in zip(plain, matrices, strict=True):
        matrix.check(model.module, needs_bias=change.add is not None)
    expected = _probe(model, edits)
    twin = copy.deepcopy(model.module)
    names = {module: name for name, module in model.module.named_modules()}
    for change, matrix in _inside_out(plain, matrices):
        fold_one(replace(matrix, module=twin.get_submodule(names[matrix.module])), change)
    edited = replace(model, module=twin, name=f"{model.name} (edited)", dictionaries=())
    _prove(edited, expected)
    return edited


def check_plain(model: LanguageModel) -> None:
    """Raises UnsupportedSite for a model whose weights are quantised."""
    config = model.module.config
    if getattr(config, "quantization_config", None) is not None or getattr(model.module, "is_quantized", False):
        raise UnsupportedSite(
            f"{model.name} is quantised, and its weights cannot hold an edit exactly: load it without quantisation, "
            "fold, and quantise the result; or use apply() at run time"
        )
    if any(parameter.is_meta for parameter in model.module.parameters()):
        raise UnsupportedSite(
            f"{model.name} is partly offloaded, and its weights cannot be edited there: load it whole"
        )


def _inside_out(edits: Sequence[Change], matrices: Sequence[Matrix]) -> list[tuple[Change, Matrix]]:
    """Columns before rows: what enters a matrix is changed before what leaves it; of columns the last first."""
    both = list(zip(edits, matrices, strict=True))
    return [pair for pair in both[::-1] if pair[1].columns] + [pair for pair in both if not pair[1].columns]


@torch.no_grad()
def fold_one(matrix: Matrix, change: Change) -> None:
    """W (x keep + add) + b = (W keep) x + (b + W add) for columns; the same of W x + b for rows. In float64."""
    if matrix.scale is not None:
        _fold_norm(matrix, matrix.scale, change)
        return
    weight = matrix.weight.to(torch.float64)  # [out, in]
    bias = matrix.bias
    keep = change.keep.to(weight.device)
    add = None if change.add is None else change.add.to(weight.device) / change.place.factor
    if matrix.columns:
        offset = None if add is None else weight @ add
        matrix.set_weight(weight * keep)
    else:
        offset = add
        matrix.set_weight(weight * keep[:, None])
        if bias is not None:
            bias.copy_(bias.double() * keep)
    if offset is not None and bias is not None:
        bias.copy_(bias.double() + offset)


def _fold_norm(matrix: Matrix, weight: Tensor, change: Change) -> None:
    """The same for a norm or layer scale behind the projection, whether it multiplies with w or, as Gemma, 1 + w."""
    own, bias = weight.to(torch.float64, copy=True), matrix.bias
    keep = change.keep.to(weight.device)
    add = torch.zeros_like(keep) if change.add is None else change.add.to(weight.device) / change.place.factor
    probe = torch.randn(2, len(keep), generator=torch.Generator().manual_seed(0)).to(weight)
    expected = matrix.module(probe[None]).double() * keep + add
    if bias is not None:
        bias.copy_(bias.double() * keep + add)
    errors = {}
    for one in (0.0, 1.0):
        weight.copy_((own + one) * keep - one)
        errors[one] = float((matrix.module(probe[None]).double() - expected).abs().max())
    best = min(errors, key=errors.__getitem__)
    weight.copy_((own + best) * keep - best)
    if errors[best] <= CLOSE[weight.dtype]:
        return
    raise UnsupportedSite(
        f"{change.place} cannot be folded: {type(matrix.module).__name__}, through which it is added, multiplies with "
        "something else than its weight; use apply() at run time"
    )


def _matrix(model: LanguageModel, trace: Trace, change: Change | FeatureChange) -> Matrix:
    """The projection that holds the change. Raises UnsupportedSite where there is none."""
    place = change.place
    if place.site in NOT_FOLDED:
        raise UnsupportedSite(
            f"{place} cannot be folded into weights: {NOT_FOLDED[place.site]}; use apply() at run time"
        )
    layer = model.layers[place.layer].module
    module = matrix_of(trace, layer, place, columns=place.site in COLUMN_SITES)
    if module is None:
        raise UnsupportedSite(
            f"{place} cannot be folded: {model.name} has no plain matrix of {place.units * place.width} features "
            f"{'behind' if place.site in COLUMN_SITES else 'at the end of'} it; use apply() at run time"
        )
    return Matrix(module, place.site in COLUMN_SITES, str(place))


def _watched(model: LanguageModel) -> Trace:
    with evaluating(model.module):
        return watch(model.module)


@torch.no_grad()
def _probe(model: LanguageModel, edits: Sequence[Change | FeatureChange] = ()) -> Tensor:
    with evaluating(model.module), changed(model, edits):
        logits: Tensor = model.module(input_ids=probe_ids(model.module), use_cache=False).logits
    return torch.log_softmax(logits.double(), -1)


def _prove(edited: LanguageModel, expected: Tensor) -> None:
    """Raises UnsupportedSite where the folded model does not do what the hooked one did."""
    difference = (_probe(edited) - expected).abs().max().item()
    if not difference <= CLOSE.get(edited.dtype, 1e-4):
        raise UnsupportedSite(
            f"the edit cannot be folded into the weights of {edited.name.removesuffix(' (edited)')}: its "
            f"log-probabilities would differ from the hooked model's by {difference:.2g}, because something stands "
            "between the component and its matrix (a norm, a gate); use apply() at run time, or zero and scale"
        )
