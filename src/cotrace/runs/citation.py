"""A methods paragraph and BibTeX for a run, from what it recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cotrace.errors import InputError
from cotrace.runs import references
from cotrace.runs.added import read_evaluation
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import SHIPPED, read_run_config
from cotrace.runs.evidence import EVALUATION
from cotrace.runs.manifest import holds
from cotrace.runs.stored import StoredRun

PURSUIT = "cotrace's two-way gradient-guided pursuit"
DATA = "dataset_of_this_run"


@dataclass(frozen=True)
class Citation:
    """What to write about a run, and what to cite."""

    paragraph: str
    entries: tuple[str, ...]
    """BibTeX, the tool first."""

    @property
    def text(self) -> str:
        """Both, as printed."""
        return "\n\n".join((self.paragraph, *self.entries))


def cite(run: StoredRun) -> Citation:
    """The methods paragraph and the BibTeX of a finished run. Raises DamagedRun, InputError."""
    config, record = read_run_config(run.path)
    try:
        entries = tuple(dict.fromkeys(_entries(run, config, record)))
        return Citation(" ".join(_sentences(run, config, record)), entries)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{run.path} does not record what is to be cited ({type(error).__name__}: {error}): trace again"
        ) from None


def _entries(run: StoredRun, config: RunConfig, record: Mapping[str, Any]) -> Iterator[str]:
    yield references.tool(str(record["versions"]["cotrace"]))
    yield references.PAPER
    for frontier in run.frontiers:
        yield from references.SEARCHES.get(frontier.search, ())
    yield _model(config, record)
    yield references.TASKS[config.task] if config.task in references.TASKS else _data(config, record)


def _model(config: RunConfig, record: Mapping[str, Any]) -> str:
    """The model by its name and revision or the hash of its weights; its authors are the user's to add."""
    own = record["model"]
    name = "the model that ships with cotrace" if config.model == SHIPPED else _name(config.model)
    commit = own.get("commit") or config.revision
    where = f"revision {_tex(str(commit))}, " if commit else ""
    made = _tex(str(own["architecture"]))
    return (
        f"@misc{{model_of_this_run,\n  title = {{{_tex(name)}}},\n  note = {{{made}, {where}sha256 of the weights "
        f"{own.get('weights_sha256')}}}\n}}"
    )


def _data(config: RunConfig, record: Mapping[str, Any]) -> str:
    return (
        f"@misc{{{DATA},\n  title = {{{_tex(_name(config.task))}}},\n"
        f"  note = {{sha256 {record.get('data_sha256')}}}\n}}"
    )


def _name(path_or_id: str) -> str:
    """An id as it is; of a local path the last part, which is all that others can use."""
    return path_or_id.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if path_or_id.startswith("/") else path_or_id


def _tex(text: str) -> str:
    """Text with the characters that TeX takes for commands marked as text."""
    marked = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marked |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(marked.get(sign, sign) for sign in text)


def _sentences(run: StoredRun, config: RunConfig, record: Mapping[str, Any]) -> Iterator[str]:
    frontier, versions = run.frontiers[0], record["versions"]
    name = "the model that ships with cotrace" if config.model == SHIPPED else _name(config.model)
    pairs, unseen = record["pairs_searched"], record["pairs_heldout"]
    yield (
        f"We asked which of {len(frontier.space):,} components ({frontier.space.outline}) of {name} "
        f"({record['model']['architecture']}, {config.dtype}) together drive {frontier.metric} on {frontier.task} "
        f"[{_data_key(config)}]."
    )
    acts = "took the donor's value" if frontier.mode == "swap" else "kept running while all others took the donor's"
    judges = f"{unseen} held-out pairs judged it" if unseen else "no pairs were held out"
    yield (
        f"Chosen components {acts} (mode {frontier.mode}, donor {config.donor_words}); on {pairs} pairs each search "
        f"looked, at every size up to {frontier.sizes[-1]}, for the set that would {frontier.direction} the effect, "
        f"and {judges} (split seed {config.seed})."
    )
    yield f"We used {_searches(run)}, as implemented in cotrace {versions['cotrace']} [cotrace; yan2026multicomponent]."
    if judged := _evaluation(run):
        yield judged
    yield (
        f"Software: Python {versions['python']}, PyTorch {versions['torch']}, transformers "
        f"{versions['transformers']}; attention implementation {record['model']['attention']}, {record['threads']} "
        f"thread{'s' if record['threads'] != 1 else ''}."
    )


def _data_key(config: RunConfig) -> str:
    entry = references.TASKS.get(config.task)
    return DATA if entry is None else references.key_of(entry)


def _searches(run: StoredRun) -> str:
    """The searches with their sources and costs."""
    told = []
    for frontier in run.frontiers:
        keys = "; ".join(map(references.key_of, references.SEARCHES.get(frontier.search, ())))
        name = PURSUIT if frontier.search == "pursuit" else f"the search {frontier.search}"
        cost = f"{frontier.forward_equivalents:,.0f} forward-equivalents"
        told.append(f"{name} ({cost}{f'; [{keys}]' if keys else ''})")
    return ", ".join(told[:-1]) + (" and " if len(told) > 1 else "") + told[-1]


def _evaluation(run: StoredRun) -> str:
    """How the result was judged, where it was."""
    if not holds(run.path, EVALUATION):
        return ""
    found = read_evaluation(run.path / EVALUATION)
    random = f" and {found.controls.chains} nested random sets of the same composition" if found.controls else ""
    return (
        f"The result was judged on {found.pairs} {found.judged_on} pairs (resampled: {found.units}) by BCa "
        f"bootstrap intervals{random}, p-values adjusted for the sizes tested by the max-T method."
    )
