"""Published circuits as cited facts: names of heads by role, to be compared with what a search finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cotrace.components import Component
from cotrace.errors import InputError, unknown
from cotrace.results import Selection
from cotrace.validation import door


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A circuit as its authors published it."""

    name: str
    """Name of the circuit, as ``--known`` takes it."""
    model: str
    """Name of the model."""
    task: str
    """The task that it was found on."""
    source: str
    """The publication."""
    roles: Mapping[str, tuple[Component, ...]] = field(repr=False)
    """Role -> its components."""
    note: str = ""
    """Remarks."""
    config: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Entries of that model's configuration; empty where any model fits."""

    def check(self, model: str, config: object) -> None:
        """Raise InputError where a model's configuration is not that of the model whose circuit this is.

        Args:
            model: Name of the model.
            config: Its transformers configuration.
        """
        found = {name: getattr(config, name, None) for name in self.config}
        if found != self.config:
            expected = ", ".join(f"{name} {value}" for name, value in self.config.items())
            raise InputError(
                f"circuit {self.name} is of {self.model} ({expected}), and {model} is another model, where the same "
                f"names are other components: trace {self.model}, or compare with a set of this model's own"
            )

    @property
    def members(self) -> tuple[Component, ...]:
        """All components, in order of layer and unit, each once."""
        return tuple(sorted({member for members in self.roles.values() for member in members}))

    @property
    def selection(self) -> Selection:
        """The circuit as a set."""
        return Selection(members=self.members)

    def role(self, name: str) -> Selection:
        """The components of one role. Raises UnknownName.

        Args:
            name: Name of a role.
        """
        if name not in self.roles:
            raise unknown("role", name, self.roles)
        return Selection(members=self.roles[name])


def _roles(names: Mapping[str, str]) -> dict[str, tuple[Component, ...]]:
    return {role: tuple(map(Component.parse, text.split())) for role, text in names.items()}


GPT2_SMALL: Mapping[str, object] = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768}
IOI = Circuit(
    name="ioi",
    model="gpt2",
    config=GPT2_SMALL,
    task="indirect object identification",
    source="Wang et al. 2022, Interpretability in the Wild, arXiv 2211.00593, figure 2",
    roles=_roles(
        {
            "previous token": "2.2 4.11",
            "duplicate token": "0.1 0.10 3.0",
            "induction": "5.5 5.8 5.9 6.9",
            "s inhibition": "7.3 7.9 8.6 8.10",
            "name mover": "9.6 9.9 10.0",
            "negative name mover": "10.7 11.10",
            "backup name mover": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
        }
    ),
    note="26 heads; 0.10, 5.8 and 5.9 are minor in their classes. Found by path patching with mean ablation.",
)
GREATER_THAN = Circuit(
    name="greater_than",
    model="gpt2",
    config=GPT2_SMALL,
    task="greater-than: the war lasted from 1732 to 17..",
    source=(
        "Hanna, Liu and Variengien 2023, How does GPT-2 compute greater-than?, arXiv 2305.00586; the heads as Conmy et "
        "al. 2023, arXiv 2304.14997, list them"
    ),
    roles=_roles(
        {
            "early heads": "0.1 0.3 0.5",
            "early mlps": "L0.mlp L1.mlp L2.mlp L3.mlp",
            "middle heads": "5.5 6.1 6.9 7.10 8.11 9.1",
            "late mlps": "L8.mlp L9.mlp L10.mlp L11.mlp",
        }
    ),
    note="The middle heads attend to the start year; the late MLPs raise the years above it. Found by path patching.",
)
INDUCTION = Circuit(
    name="induction",
    model="gpt2",
    config=GPT2_SMALL,
    task="induction: continue a sequence that was seen before",
    source=(
        "Wang et al. 2022, arXiv 2211.00593, where they serve the IOI circuit; induction heads were named by Olsson et "
        "al. 2022, arXiv 2209.11895"
    ),
    roles=_roles({"previous token": "2.2 4.11", "induction": "5.5 6.9"}),
    note="Not all induction heads of the model: only those that these authors name as certain.",
)
CIRCUITS: Mapping[str, Circuit] = {circuit.name: circuit for circuit in (IOI, GREATER_THAN, INDUCTION)}


def circuit(name: str) -> Circuit:
    """The published circuit of that name: ioi, greater_than or induction. Raises UnknownName."""
    if name not in CIRCUITS:
        raise unknown("circuit", name, CIRCUITS)
    return CIRCUITS[name]


def names() -> Sequence[str]:
    """The names of all published circuits here."""
    return list(CIRCUITS)


door("ct.known", globals(), ("Circuit", "circuit", "names"))
