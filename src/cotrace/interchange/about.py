"""About: what an exported selection says of where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cotrace.components import Component, ComponentSpace, Direction, Mode
from cotrace.errors import InputError
from cotrace.results import Frontier, Selection
from cotrace.results.frontier import ORIGIN
from cotrace.showing import warn


@dataclass(frozen=True, kw_only=True)
class About:
    """The question that a selection answers; what is not known is empty."""

    model: str
    """Hugging Face id, folder or name of the model."""
    revision: str | None = None
    task: str = ""
    metric: str = ""
    mode: Mode = "swap"
    direction: Direction = "maximise"
    donors: str = "counterfactual"
    align: str = "exact"
    positions: str = "prompt"
    """Where donors act: on the prompt, or ``prompt+answer``."""
    split: str = ""
    """What the search did not see, as options: ``holdout=0.3, seed=0``."""
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
        """Inverse of ``to_dict``; fields may be left out."""
        names = {item.name for item in fields(cls)}
        space = tuple(map(Component.parse, data.get("space", ())))
        return cls(**{name: value for name, value in data.items() if name in names} | {"space": space})
