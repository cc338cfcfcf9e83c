"""The format of durations in commands and pages."""

from __future__ import annotations

import pytest

from cuecard.domain.outcome import seconds
from cuecard.report.formatting import duration


@pytest.mark.parametrize(
    ("value", "whole", "brief"),
    [
        (0.0, "0 ms", "0 ms"),
        (0.0042, "4.2 ms", "4 ms"),
        (0.00996, "10 ms", "10 ms"),
        (0.3456, "346 ms", "346 ms"),
        (0.9994, "999 ms", "999 ms"),
        (0.9996, "1.00 s", "1.0 s"),
        (1.7351, "1.74 s", "1.7 s"),
        (9.96, "9.96 s", "10 s"),
        (31.4, "31.40 s", "31 s"),
    ],
)
def test_durations_are_in_milliseconds_below_one_second_and_in_seconds_above(
    value: float, whole: str, brief: str
) -> None:
    assert (duration(value), seconds(value)) == (whole, brief)
