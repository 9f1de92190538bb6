"""Donor sources as text, the way they stand on the command line and in a config file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cotrace.donors.sources import Counterfactual, DonorSource, Mean, Noise, Resample, Scale, Zero
from cotrace.errors import InputError, unknown

_NOISE = re.compile(r"(?P<std>\d+(\.\d+)?)(?P<x>x?)(@(?P<role>[A-Za-z_][\w-]*))?")


def donor_source(donors: str | DonorSource) -> DonorSource:
    """The source of that name: counterfactual, noise=0.6, noise=3x@subject, zero, mean=task, mean=position, resample,
    resample=SEED, scale=0.2. Raises UnknownName, InputError."""
    if not isinstance(donors, str):
        return donors
    name, _, value = donors.partition("=")
    if name == "vector":
        raise InputError("donors='vector' needs tensors: give cotrace.donors.Vector(values={component: tensor})")
    if name not in _PARSERS:
        raise unknown("donor source", name, [*_PARSERS, "vector"])
    return _PARSERS[name](value)


def _plain(source: Callable[[], DonorSource]) -> Callable[[str], DonorSource]:
    def parse(value: str) -> DonorSource:
        if value:
            raise InputError(f"donors={source().name!r} takes no value, but has {value!r}")
        return source()

    return parse


def _noise(value: str) -> Noise:
    match = _NOISE.fullmatch(value)
    if match is None:
        raise InputError(
            f"donors='noise={value}': write noise=0.6 (std), noise=3x (times the embeddings') or noise=3x@subject"
        )
    amount, role = float(match["std"]), match["role"] or "all"
    return Noise(multiple=amount, role=role) if match["x"] else Noise(std=amount, role=role)


def _mean(value: str) -> Mean:
    if value not in ("task", "position"):
        raise InputError(
            "donors='mean' needs a reference set: mean=task (pooled over the task's donor runs), mean=position (the "
            "same for each position), or cotrace.donors.Mean(reference=...)"
        )
    return Mean(per_position=value == "position")


def _resample(value: str) -> Resample:
    if value and not value.isdecimal():
        raise InputError(f"donors='resample={value}': the value is a seed, a whole number")
    return Resample(seed=int(value or 0))


def _scale(value: str) -> Scale:
    try:
        return Scale(float(value))
    except ValueError:
        raise InputError(f"donors='scale={value}': write the factor, as in scale=0.2") from None


_PARSERS: Mapping[str, Callable[[str], DonorSource]] = {
    "counterfactual": _plain(Counterfactual),
    "noise": _noise,
    "zero": _plain(Zero),
    "mean": _mean,
    "resample": _resample,
    "scale": _scale,
}
