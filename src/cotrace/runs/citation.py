"""How a run is cited: a sentence of method, and BibTeX of what it used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cotrace.errors import InputError
from cotrace.evaluation import Evaluation
from cotrace.results import Frontier
from cotrace.results.table import in_words, ranges
from cotrace.runs.addenda import AUDIT, EVALUATION, read_evaluation
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import SHIPPED, read_run_config
from cotrace.runs.manifest import holds
from cotrace.runs.result_files import StoredRun

PAPER = """@inproceedings{yan2026multicomponent,
  title = {Multi-component Causal Tracing in Large Language Models},
  author = {Yan and Wei and Katz and Sattigeri and Tajer},
  booktitle = {Proceedings of the Annual Meeting of the Association for Computational Linguistics (ACL)},
  year = {2026},
  eprint = {2606.03085},
  archiveprefix = {arXiv}
}"""


def _arxiv(key: str, title: str, author: str, year: int, number: str) -> str:
    return (
        f"@misc{{{key},\n  title = {{{title}}},\n  author = {{{author}}},\n  year = {{{year}}},\n"
        f"  eprint = {{{number}}},\n  archiveprefix = {{arXiv}}\n}}"
    )


def _paper(key: str, title: str, author: str, where: str, year: int) -> str:
    return (
        f"@inproceedings{{{key},\n  title = {{{title}}},\n  author = {{{author}}},\n  booktitle = {{{where}}},\n"
        f"  year = {{{year}}}\n}}"
    )


SEARCHES: Mapping[str, tuple[str, ...]] = {
    "pgbct": (PAPER,),
    "floating": (
        _paper(
            "pudil1994floating",
            "Floating search methods in feature selection",
            "Pudil, Pavel and Novovi{\\v{c}}ov{\\'a}, Jana and Kittler, Josef",
            "Pattern Recognition Letters 15(11)",
            1994,
        ),
    ),
    "attribution": (
        _arxiv(
            "syed2023attribution",
            "Attribution Patching Outperforms Automated Circuit Discovery",
            "Syed, Aaquib and Rager, Can and Conmy, Arthur",
            2023,
            "2310.10348",
        ),
        _arxiv(
            "hanna2024faith",
            "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms",
            "Hanna, Michael and Pezzelle, Sandro and Belinkov, Yonatan",
            2024,
            "2403.17806",
        ),
        _arxiv(
            "kramar2024atp",
            "AtP*: An efficient and scalable method for localizing LLM behaviour to components",
            "Kram{\\'a}r, J{\\'a}nos and Lieberum, Tom and Shah, Rohin and Nanda, Neel",
            2024,
            "2403.00745",
        ),
    ),
    "hardconcrete": (
        _paper(
            "louizos2018learning",
            "Learning Sparse Neural Networks through L0 Regularization",
            "Louizos, Christos and Welling, Max and Kingma, Diederik P.",
            "International Conference on Learning Representations",
            2018,
        ),
        _paper(
            "cao2021low",
            "Low-Complexity Probing via Finding Subnetworks",
            "Cao, Steven and Sanh, Victor and Rush, Alexander M.",
            "Proceedings of NAACL-HLT",
            2021,
        ),
    ),
    "matryoshka": (
        _arxiv(
            "arora2026matryoshka",
            "Matryoshka attribution: Learning to attribute language model outputs to representations and weights",
            "Arora, Aryaman and Acharya, Kirill and Hu, Nathan and Zhang, Yanzhe and Goodman, Noah and Jurafsky, Dan "
            "and Potts, Christopher",
            2026,
            "2609.25518",
        ),
    ),
    "ensemble": (
        _arxiv(
            "mondorf2025ensemble",
            "BlackboxNLP-2025 MIB Shared Task: Exploring Ensemble Strategies for Circuit Localization Methods",
            "Mondorf, Philipp and Wang, Mingyang and Gerstner, Sebastian and Hakimi, Ahmad Dawar and Liu, Yihong and "
            "Veloso, Leonor and Zhou, Shijia and Schuetze, Hinrich and Plank, Barbara",
            2025,
            "2510.06811",
        ),
    ),
    "annealing": (
        _arxiv(
            "attentionpruning2025",
            "Attention Pruning: Automated Fairness Repair of Language Models via Surrogate Simulated Annealing",
            "Dasu, Vishnu Asutosh and others",
            2025,
            "2503.15815",
        ),
    ),
}
"""Searches that are somebody's; the others are cotrace's own (pursuit) or common knowledge."""

_IOI = _arxiv(
    "wang2022interpretability",
    "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small",
    "Wang, Kevin and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and Steinhardt, Jacob",
    2022,
    "2211.00593",
)
TASKS: Mapping[str, str] = {
    "winobias": _arxiv(
        "zhao2018gender",
        "Gender Bias in Coreference Resolution: Evaluation and Debiasing Methods",
        "Zhao, Jieyu and Wang, Tianlu and Yatskar, Mark and Ordonez, Vicente and Chang, Kai-Wei",
        2018,
        "1804.06876",
    ),
    "winogender": _paper(
        "rudinger2018gender",
        "Gender Bias in Coreference Resolution",
        "Rudinger, Rachel and Naradowsky, Jason and Leonard, Brian and Van Durme, Benjamin",
        "Proceedings of NAACL-HLT",
        2018,
    ),
    "professions": _arxiv(
        "vig2020causal",
        "Causal Mediation Analysis for Interpreting Neural NLP: The Case of Gender Bias",
        "Vig, Jesse and Gehrmann, Sebastian and Belinkov, Yonatan and Qian, Sharon and Nevo, Daniel and Sakenis, Simas "
        "and Huang, Jason and Singer, Yaron and Shieber, Stuart",
        2020,
        "2004.12265",
    ),
    "counterfact": _arxiv(
        "meng2022locating",
        "Locating and Editing Factual Associations in GPT",
        "Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan",
        2022,
        "2202.05262",
    ),
    "ioi": _IOI,
    "greater_than": _arxiv(
        "hanna2023greater",
        "How does GPT-2 compute greater-than?: Interpreting mathematical abilities in a pre-trained language model",
        "Hanna, Michael and Liu, Ollie and Variengien, Alexandre",
        2023,
        "2305.00586",
    ),
    "factual_gender": _arxiv(
        "veloso2026gknow",
        "GKnow: Measuring the Entanglement of Gender Bias and Factual Gender",
        "Veloso, Leonor and Schuetze, Hinrich",
        2026,
        "2605.12299",
    ),
    "mib": _arxiv(
        "mueller2025mib",
        "MIB: A Mechanistic Interpretability Benchmark",
        "Mueller, Aaron and others",
        2025,
        "2504.13151",
    ),
    "agreement": _arxiv(
        "linzen2016assessing",
        "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies",
        "Linzen, Tal and Dupoux, Emmanuel and Goldberg, Yoav",
        2016,
        "1611.01368",
    ),
    "binding": _arxiv(
        "davies2023discovering",
        "Discovering Variable Binding Circuitry with Desiderata",
        "Davies, Xander and Nadeau, Max and Prakash, Nikhil and Shaham, Tamar Rott and Bau, David",
        2023,
        "2307.03637",
    ),
}


def tool(version: str) -> str:
    """cotrace itself."""
    return (
        "@software{cotrace,\n  title = {cotrace: which components of a language model jointly drive a metric},\n"
        f"  author = {{{{cotrace contributors}}}},\n  version = {{{version}}},\n  year = {{2026}}\n}}"
    )


def key_of(entry: str) -> str:
    """The citation key of an entry."""
    return entry[entry.index("{") + 1 : entry.index(",")]


PURSUIT = "cotrace's two-way gradient-guided pursuit"
DATA = "dataset_of_this_run"


@dataclass(frozen=True)
class Citation:
    """Methods paragraph and references of a run."""

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
    yield tool(str(record["versions"]["cotrace"]))
    yield PAPER
    for frontier in run.frontiers:
        yield from SEARCHES.get(frontier.search, ())
    yield _model(config, record)
    yield TASKS[config.task] if config.task in TASKS else _data(config, record)


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
    yield (
        f"We asked which of {len(frontier.space):,} components ({frontier.space.outline}) of {name} "
        f"({record['model']['architecture']}, {_numbers(config)}) together drive {frontier.metric} on {frontier.task} "
        f"[{_data_key(config)}]."
    )
    acts = "took the donor's value" if frontier.mode == "swap" else "kept running while all others took the donor's"
    yield (
        f"Chosen components {acts} (mode {frontier.mode}, donor {config.donor_words}); {_looked(run, record)} for the "
        f"set that would {frontier.direction} the effect{_bounded(frontier)}, and found sets of {_sizes(run)}."
    )
    yield _division(config, record)
    yield f"We used {_searches(run)}, as implemented in cotrace {versions['cotrace']} [cotrace; yan2026multicomponent]."
    yield from _evaluations(run)
    yield (
        f"Software: Python {versions['python']}, PyTorch {versions['torch']}, transformers "
        f"{versions['transformers']}; attention implementation {record['model']['attention']}, {record['threads']} "
        f"thread{'s' if record['threads'] != 1 else ''}."
    )


def _numbers(config: RunConfig) -> str:
    if config.gguf is not None:
        return f"{config.dtype}, weights as the GGUF file {config.gguf} keeps them, read as floating point"
    return config.dtype if config.quantise is None else f"{config.dtype}, weights quantised to {config.quantise}"


def _looked(run: StoredRun, record: Mapping[str, Any]) -> str:
    """Return the number of pairs that the searches saw."""
    searched = record["pairs_searched"]
    training = record.get("pairs_training", searched)
    some = "" if searched == training else f" (of {training} for training, drawn by the seed; effects are of all)"
    return f"{'each' if len(run.frontiers) > 1 else 'the'} search looked on {_pairs(searched)}{some}"


def _sizes(run: StoredRun) -> str:
    """The sizes that there are sets of: each search's, where they differ."""
    sizes = {one.search: f"k = {ranges(one.sizes)}" for one in run.frontiers}
    same = len(set(sizes.values())) == 1
    return next(iter(sizes.values())) if same else "; ".join(f"{found} ({name})" for name, found in sizes.items())


def _pairs(count: int, kind: str = "") -> str:
    return f"{count} {kind}pair{'s' if count != 1 else ''}"


def _bounded(frontier: Frontier) -> str:
    bounds = "; ".join(bound.words for bound in frontier.bounds)
    return f" within constraints ({bounds})" if bounds else ""


def _division(config: RunConfig, record: Mapping[str, Any]) -> str:
    """Which pairs no search saw."""
    unseen, sealed = record["pairs_heldout"], record.get("pairs_audit", 0)
    aside = f"{_pairs(sealed)} set aside for an audit" if sealed else ""
    if not unseen:
        return (
            f"No pairs were held out{f', and {aside}' if aside else ''}: the set was chosen by the pairs reported on."
        )
    more = f", and {aside}" if aside else ""
    judged = record.get("pairs_judged", unseen)
    some = "" if judged == unseen else f", of which {judged}, drawn by the seed in whole groups, judged"
    return f"No search saw the {_pairs(unseen, 'held-out ')}{some}{more} (split seed {config.seed})."


def _data_key(config: RunConfig) -> str:
    entry = TASKS.get(config.task)
    return DATA if entry is None else key_of(entry)


def _searches(run: StoredRun) -> str:
    """The searches with their sources and costs."""
    told = []
    for frontier in run.frontiers:
        keys = "; ".join(map(key_of, SEARCHES.get(frontier.search, ())))
        name = PURSUIT if frontier.search == "pursuit" else f"the search {frontier.search}"
        cost = f"{frontier.forward_equivalents:,.0f} forward-equivalents"
        told.append(f"{name} ({cost}{f'; [{keys}]' if keys else ''})")
    return in_words(told)


def _evaluations(run: StoredRun) -> Iterator[str]:
    """How results were judged, where they were: what the evaluation holds, and nothing else."""
    for name in (EVALUATION, AUDIT):
        if holds(run.path, name):
            yield _judged(read_evaluation(run.path / name), len(run.frontiers) > 1)


def _judged(found: Evaluation, several: bool) -> str:
    tested = sum(row.p_adjusted is not None for row in found.sizes)
    means = []
    if any(row.interval is not None for row in found.sizes):
        means.append("BCa bootstrap intervals")
    if found.controls is not None:
        kind = f"{found.controls.chains} {'nested ' if tested > 1 else ''}random sets of the same composition"
        means.append(f"{kind} (per {found.controls.composition})")
    by = f" by {' and '.join(means)}" if means else ""
    resampled = f" (resampled: {found.units})" if means[:1] == ["BCa bootstrap intervals"] else ""
    adjusted = f", p-values adjusted for the {tested} sizes tested by the max-T method" if tested > 1 else ""
    which = f"the set of {found.search} with" if several else "the set with"
    return (
        f"The result was judged on {_pairs(found.pairs, found.judged_on + ' ')}{resampled}{by}{adjusted} (level "
        f"{found.level}; in detail {which} k = {found.k})."
    )
