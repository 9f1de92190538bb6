"""Donors: where the values that are swapped in come from."""

from cotrace.donors._parse import donor_file, donor_source, donor_words
from cotrace.donors.features import donors_of
from cotrace.donors.noise import Noise
from cotrace.donors.recorded import Donors, RecordedDonors, record
from cotrace.donors.sources import (
    Counterfactual,
    DonorSource,
    Mean,
    Resample,
    Scale,
    Setting,
    Vector,
    Zero,
    check_sites,
)
from cotrace.validation import door

__all__ = [
    "Counterfactual",
    "DonorSource",
    "Donors",
    "Mean",
    "Noise",
    "RecordedDonors",
    "Resample",
    "Scale",
    "Setting",
    "Vector",
    "Zero",
    "check_sites",
    "donor_file",
    "donor_source",
    "donor_words",
    "donors_of",
    "record",
]

door("ct.donors", globals(), __all__)
