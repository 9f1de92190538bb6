"""What a run stands on, as BibTeX: the tool, the paper, the searches' and the tasks' sources. Facts, not code."""

from __future__ import annotations

from collections.abc import Mapping

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
