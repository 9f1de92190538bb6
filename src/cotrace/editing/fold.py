"""``folded``: a selection's intervention written into the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cotrace.components import ERROR_SITES, FEATURE_SITES, Site
from cotrace.donors import DonorSource
from cotrace.editing.apply import Change, FeatureChange, changed, changes
from cotrace.errors import UnsupportedSite
from cotrace.models import LanguageModel, Place
from cotrace.models.hooks import Trace, probe_ids, watch
from cotrace.models.language_model import evaluating
from cotrace.prompts import Task
from cotrace.results import Selection, selection_of

PLAIN = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True, eq=False)
class Matrix:
    """A projection, and which side of it an edit goes into."""

    module: nn.Module
    columns: bool
    """Whether the edit acts on what enters (columns), or on what leaves (rows)."""
    place: str
    """The place, for messages."""

    @property
    def weight(self) -> Tensor:
        """[out, in], a view."""
        weight: Tensor = self.module.weight.data  # type: ignore[assignment]
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """[out]; None where the projection has none."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def scale(self) -> Tensor | None:
        """The weight by which a norm or a layer scale multiplies each feature; None for a projection."""
        return scale_of(self.module)

    def set_weight(self, values: Tensor) -> None:
        """Write [out, in] values."""
        self.weight.copy_(values)

    def check(self, whole: nn.Module, *, needs_bias: bool) -> None:
        """Raises UnsupportedSite for a projection that cannot hold the edit."""
        what = f"{self.place}: its {'projection' if self.scale is None else 'norm'}"
        plain = isinstance(self.module, nn.Linear | Conv1D) or self.scale is not None
        if not plain or next(self.module.parameters(recurse=False)).dtype not in PLAIN:
            raise UnsupportedSite(
                f"{what} is quantised or packed ({type(self.module).__name__}): load the "
                "model without quantisation, fold, and quantise the result; or use apply() at run time"
            )
        if needs_bias and self.bias is None:
            raise UnsupportedSite(
                f"{what} has no bias that could hold a mean or vector; use zero or scale, or apply() at run time"
            )
        if others := sharers(self.module, whole):
            raise UnsupportedSite(
                f"{what} shares its weights with {others[0]}, which the edit would change as well; use apply() at run "
                "time"
            )


def scale_of(module: nn.Module) -> Tensor | None:
    """The only vector of a module without parts, its bias apart; None where there is none."""
    own = {name: p.data for name, p in module.named_parameters(recurse=False) if name != "bias"}
    return next(iter(own.values())) if [p.ndim for p in own.values()] == [1] and not list(module.children()) else None


def sharers(module: nn.Module, whole: nn.Module) -> list[str]:
    """Return the other names and modules under which the model uses a weight of this module."""
    own = {parameter.data_ptr() for parameter in module.parameters(recurse=False)}
    uses = [
        name
        for name, part in whole.named_modules(remove_duplicate=False)
        if any(parameter.data_ptr() in own for parameter in part.parameters(recurse=False))
    ]
    return uses[1:]


def matrix_of(trace: Trace, layer: nn.Module, place: Place, *, columns: bool) -> nn.Module | None:
    """The matrix that the place's features enter (columns) or leave (rows), or the norm that they leave.

    None where none has their number."""
    scale = None if columns else scale_of(place.module)
    if scale is not None and scale.shape == (place.units * place.width,):
        return place.module
    if place.side == "input" or place.module in trace.linear:
        return place.module
    features, side = place.units * place.width, 0 if columns else 1
    when = trace.attention[place.module].order if columns and place.module in trace.attention else 0
    inside = _in_order(layer.modules() if columns else place.module.modules(), trace)
    fitting = [m for m in inside if trace.order[m] > when and trace.linear[m][side] == features and trace.once(m)]
    return next(iter(fitting if columns else fitting[::-1]), None)


def _in_order(modules: Iterable[nn.Module], trace: Trace) -> list[nn.Module]:
    """The matrices among the modules, in the order in which they ran."""
    return sorted((m for m in modules if m in trace.linear), key=trace.order.__getitem__)


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

    Args:
        model: The model; it is not changed.
        selection: Components to edit: a Selection or names.
        donor: Donor that stands alone: ``zero``, ``scale=0.2``, ``mean=task``, ``vector=FILE``, or a source.
        reference: Task over whose base prompts ``mean`` is taken; needed for it alone.
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
