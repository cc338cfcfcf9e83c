"""What records refuse, and what they write."""

from __future__ import annotations

import json

import pytest
from stock import row, showcase

from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Route


def test_routes_that_do_not_sum_to_the_questions_are_refused() -> None:
    with pytest.raises(CuecardError, match="sum to 9, not to its 10 questions"):
        row("mutual", routes={Route.AGREED: 5, Route.TRANSFERRED: 4})


def test_parts_that_exceed_the_latency_are_refused() -> None:
    with pytest.raises(CuecardError, match="exceed"):
        row("mutual", parts_s={"small": 0.15, "large": 0.06})


def test_more_right_answers_than_questions_are_refused() -> None:
    with pytest.raises(CuecardError, match="cannot be right"):
        row("mutual", right=11)


def test_a_showcase_is_written_as_json_with_images_named_by_their_digest() -> None:
    written = json.loads(showcase().json())
    assert written["rows"][2]["routes"] == {"agreed": 4, "confirmed": 3, "transferred": 3}
    assert written["gallery"][0]["question"]["images"][0]["data"].startswith("sha256:")
