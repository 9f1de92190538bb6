"""Numbers in a donor's name that are too long, or none, are refused in one line."""

import pytest

from cotrace.donors import Resample, Scale, donor_source
from cotrace.errors import InputError

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("donors", "message"),
    [
        (f"resample={LONG}", "a whole number of at most 100 digits"),
        (f"noise={LONG}", "the number is not finite"),
        (f"noise={LONG}x@subject", "the number is not finite"),
        (f"scale={LONG}", "the number is not finite"),
        ("scale=inf", "donors='scale=inf': the number is not finite; write one that is"),
        ("scale=nan", "donors='scale=nan': the number is not finite"),
        ("scale=2 times", "write the factor, as in scale=0.2"),
    ],
)
def test_a_number_that_cannot_be_used_is_one_short_line(donors: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        donor_source(donors)
    assert len(str(caught.value)) < 300


def test_long_numbers_that_can_be_used_are() -> None:
    assert donor_source("resample=" + "9" * 100) == Resample(seed=10**100 - 1)
    assert donor_source("scale=1e300") == Scale(1e300)
