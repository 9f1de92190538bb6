"""``load_dictionaries``: from a folder, or an id of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import overload

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cotrace.dictionaries.dictionary import Dictionary
from cotrace.dictionaries.dictionary_file import (
    CFG,
    NPZ,
    PICKLES,
    Found,
    found_in,
    gemma_cfg,
    layer_of,
    pickled,
    read_cfg,
    read_dictionary,
)
from cotrace.dictionaries.placed import with_dictionaries
from cotrace.errors import InputError, first_line
from cotrace.models.language_model import LanguageModel
from cotrace.validation import checked, guarded

MOST = 64
"""Dictionaries that are fetched from the hub without being told apart further."""


@guarded("ct.Dictionaries", fields=False)
class Dictionaries(Sequence[Dictionary]):
    """Dictionaries of one model, one of a place; ``LanguageProblem`` takes them, ``on`` puts them into a model.

    Args:
        dictionaries: The dictionaries, one of a place.
        trained_on: A name that the files may have for the model, beside its own.
    """

    def __init__(self, dictionaries: Sequence[Dictionary], *, trained_on: str | None = None) -> None:
        self._held = tuple(dictionaries)
        self.trained_on = trained_on
        """A name that the files may have for the model, beside its own."""

    @overload
    def __getitem__(self, index: int) -> Dictionary: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Dictionary]: ...
    def __getitem__(self, index: int | slice) -> Dictionary | Sequence[Dictionary]:
        return self._held[index]

    def __len__(self) -> int:
        return len(self._held)

    def on(self, model: LanguageModel) -> LanguageModel:
        """The model with these dictionaries at their places. Raises InputError, UnsupportedSite."""
        return with_dictionaries(model, self, self.trained_on)

    def __repr__(self) -> str:
        return f"Dictionaries({', '.join(f'{d.name}: {d.size} at {d.hook_out}' for d in self)})"


@checked("ct.load_dictionaries")
def load_dictionaries(
    folder_or_id: str | Path,
    *,
    layers: int | Sequence[int] | None = None,
    hook: str | None = None,
    trained_on: str | None = None,
    revision: str | None = None,
) -> Dictionaries:
    """Sparse autoencoders and transcoders, from a folder (and those below it) or an id of the Hugging Face hub.

    Read are SAELens' ``cfg.json`` with safetensors and Gemma Scope's ``params.npz``; pickles are refused. ``layers``
    keeps those of these layers, as their hooks count them; ``hook`` keeps those whose hook has that name or ends with
    it, and says where one belongs whose files do not. ``trained_on`` is the model that they were trained on, where
    that is another name for yours or a model that yours was made from. An id may go on with a folder:
    ``owner/name/layer_5``. Raises InputError, UnknownName, NonFiniteError.

    Args:
        folder_or_id: A folder, or an id of the hub.
        revision: Branch, tag or commit of the hub; None for the default branch.
    """
    path = Path(folder_or_id)
    here = path.exists() or path.suffix in PICKLES
    wanted = partial(_wanted, layers=layers, hook=hook)
    folder = path if here else _fetched(str(folder_or_id), revision, wanted)
    found = [one for one in found_in(folder, hook) if wanted(one)]
    if not found:
        offered = ", ".join(dict.fromkeys(one.hook for one in found_in(folder, hook)))
        raise InputError(f"dictionaries {folder_or_id}: none is at {_words(layers, hook)}; it has {offered}")
    return Dictionaries([read_dictionary(one) for one in found], trained_on=trained_on)


def _wanted(found: Found, *, layers: int | Sequence[int] | None, hook: str | None) -> bool:
    name = str(found.cfg.get("hook_name_out") or found.hook)
    by_hook = hook is None or any(one == hook or one.endswith(f".{hook}") for one in (found.hook, name))
    return by_hook and (layers is None or layer_of(name) in _listed(layers))


def _listed(layers: int | Sequence[int]) -> tuple[int, ...]:
    return (layers,) if isinstance(layers, int) else tuple(layers)


def _words(layers: int | Sequence[int] | None, hook: str | None) -> str:
    where = [] if layers is None else [f"layer {' or '.join(map(str, _listed(layers)))}"]
    return " and ".join([*where, *([hook] if hook else [])])


def _fetched(name: str, revision: str | None, wanted: Callable[[Found], bool]) -> Path:
    """The hub's dictionaries of that id, on this machine. Raises InputError."""
    owner, _, rest = name.partition("/")
    repository, _, below = rest.partition("/")
    identity = f"{owner}/{repository}"
    if not repository:
        raise InputError(f"dictionaries {name}: there is no such folder, and an id of the hub is owner/name")
    try:
        files = HfApi().list_repo_files(identity, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        return _kept(identity, revision, below, first_line(error))
    try:
        return _download(identity, revision, below, files, wanted)
    except (HfHubHTTPError, OSError) as error:
        reason = first_line(error)
        raise InputError(f"dictionaries {name}: cannot be fetched ({reason}); give a folder of them") from None


def _kept(identity: str, revision: str | None, below: str, reason: str) -> Path:
    """The copy in the local cache, where the hub does not answer."""
    try:
        return Path(snapshot_download(identity, revision=revision, local_files_only=True)) / below
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        raise InputError(
            f"dictionaries {identity}: there is no such folder, and the hub does not give them ({reason}); give a "
            "folder of dictionaries, or mend the network"
        ) from None


def _download(
    identity: str, revision: str | None, below: str, files: Sequence[str], wanted: Callable[[Found], bool]
) -> Path:
    """Descriptions first, then the weights of those wanted."""
    inside = [file for file in files if not below or file.startswith(f"{below}/")]
    places = sorted({file.rpartition("/")[0] for file in inside if file.rpartition("/")[2] in (CFG, NPZ)})
    if not places:
        pickles = [file for file in inside if Path(file).suffix in PICKLES]
        if pickles:
            raise pickled(Path(identity) / pickles[0])
        raise InputError(f"dictionaries {identity}/{below}: neither {CFG} nor {NPZ} is there; it is another repository")
    described = {place: _described(identity, revision, place, inside) for place in places}
    chosen = [place for place, found in described.items() if wanted(found)]
    if len(chosen) > MOST:
        raise InputError(
            f"dictionaries {identity}/{below}: {len(chosen)} of them are there, {chosen[0]} the first; give layers, or "
            "name one folder of them"
        )
    root = Path()
    for file in (file for place in (chosen or places[:1]) for file in inside if file.rpartition("/")[0] == place):
        if Path(file).suffix in (".json", ".npz", ".safetensors"):
            root = Path(hf_hub_download(identity, file, revision=revision)).parents[file.count("/")]
    return root / below


def _described(identity: str, revision: str | None, place: str, files: Sequence[str]) -> Found:
    """Return the description of a dictionary of the hub without its weights."""
    file = f"{place}/{CFG}".lstrip("/")
    if file not in files:
        return Found(Path(place), gemma_cfg(f"{identity}/{place}"))
    return Found(Path(place), read_cfg(Path(hf_hub_download(identity, file, revision=revision))))
