"""The project's own file of a selection, and what it says of where the selection comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from cotrace.components import Component, ComponentSpace, Direction, Mode
from cotrace.errors import InputError
from cotrace.results import Frontier, Selection
from cotrace.results.frontier_file import ORIGIN
from cotrace.text.files import clipped, schema_of, shortened
from cotrace.text.progress_bar import warn

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError


@dataclass(frozen=True, kw_only=True)
class About:
    """The question that a selection answers; what is not known is empty."""

    model: str
    """Hugging Face id, folder or name of the model."""
    revision: str | None = None
    """Commit of the model; None where it is not known."""
    task: str = ""
    """Name of the task."""
    metric: str = ""
    """Name of the metric."""
    mode: Mode = "swap"
    """``swap`` or ``keep``."""
    direction: Direction = "maximise"
    """``maximise`` or ``minimise``."""
    donors: str = "counterfactual"
    """Donor source, as on the command line."""
    align: str = "exact"
    """Alignment of the prompts: ``exact``, ``ends`` or ``spans``."""
    positions: str = "prompt"
    """Positions at which donors act: on the prompt, or ``prompt+answer``."""
    split: str = ""
    """The split, as options: ``holdout=0.3, seed=0``."""
    space: tuple[Component, ...] = field(default=(), repr=False)
    """All components that could have been chosen; needed in ``keep`` mode, where the others are what is changed."""

    @classmethod
    def of(cls, frontier: Frontier, model: str | None = None, **rest: Any) -> About:
        """About a selection of this frontier; ``model`` and ``rest`` (such as revision) say more or something else.

        What the frontier does not know stays empty, with a warning. Raises InputError where no model is known.
        """
        known = {name: getattr(frontier, name) for name in ORIGIN} | rest
        known["model"] = model or frontier.model
        if not known["model"]:
            raise InputError("the frontier does not say of which model it is; give it: About.of(frontier, model)")
        if unknown := [name for name in ORIGIN if not known[name]]:
            fields = ", ".join(f"{name}=" for name in unknown)
            reason = "it was written by an earlier version, or its problem does not say"
            warn(f"the frontier has no {', '.join(unknown)} ({reason}); give {fields}", UserWarning)
        return cls(
            task=frontier.task,
            metric=frontier.metric,
            mode=frontier.mode,
            direction=frontier.direction,
            space=frontier.space.components,
            **known,
        )

    def changed(self, selection: Selection) -> tuple[Component, ...]:
        """The components that take the donor's value: the members in ``swap`` mode, the rest of the space in ``keep``.

        Raises InputError for ``keep`` without a space.

        Args:
            selection: The selection.
        """
        if self.mode == "swap":
            return selection.members
        if not self.space:
            raise InputError("a selection of keep mode says what is left alone; give the component space as well")
        chosen = set(selection.members)
        return tuple(component for component in ComponentSpace(self.space) if component not in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"space": [str(component) for component in self.space]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> About:
        """Inverse of ``to_dict``; fields may be left out.

        Args:
            data: The mapping that ``to_dict`` gave.
        """
        names = {item.name for item in fields(cls)}
        space = tuple(map(Component.parse, data.get("space", ())))
        return cls(**{name: value for name, value in data.items() if name in names} | {"space": space})


def document(selection: Selection, about: About, *, search: str = "", rule: str = "") -> dict[str, Any]:
    """A selection as the JSON document of the schema.

    Args:
        selection: The selection.
        about: Its question.
        search: Name of the search.
        rule: How the selection was picked, in words.
    """
    words = {name: text for name, text in (("search", search), ("rule", rule)) if text}
    return {"schema": 1, "about": about.to_dict(), "chosen": words | selection.to_dict()}


def selection_of(data: Mapping[str, Any], where: str) -> Selection:
    """The chosen selection of a document. Raises InputError that begins with ``where``."""
    check(data, where)
    chosen = data["chosen"]
    k, count = chosen.get("k"), len(chosen["components"])
    if k is not None and k != count:
        raise InputError(f"{where}: chosen.k is {k}, but chosen.components has {count}; mend one of the two")
    try:
        return Selection.from_dict(chosen)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check(data: object, where: str) -> None:
    """Raise InputError with the first place where a document departs from the schema."""
    error = min(_validator().iter_errors(data), key=lambda found: found.json_path, default=None)
    if error is not None:
        raise InputError(f"{where}: {_sentence(error)}")


def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of a selection."""
    return cast("Mapping[str, Any]", _validator().schema)


def _validator() -> Draft202012Validator:
    return schema_of("cotrace.interchange", "selection.schema.json")


def _sentence(error: ValidationError) -> str:
    place = error.json_path.removeprefix("$").removeprefix(".") or "the document"
    if error.validator == "pattern":
        return f"{place} is {shortened(error.instance)}, no component; write it as L9.head6, L3.neuron1207 or L5.mlp"
    return f"{place}: {clipped(error.message)}; the format is described in docs/interchange.md"
