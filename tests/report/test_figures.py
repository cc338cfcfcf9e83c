"""Figures are well-formed SVG that can be embedded in any page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from stock import CALLS, OUTCOME, call

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.outcome import Outcome, Route
from cuecard.report.canvas import ScatterPoint, Spot, place, scatter, svg
from cuecard.report.evaluation.figures import IntervalRow, interval_rows
from cuecard.report.terminal import timeline


def line(outcome: Outcome) -> str:
    return svg(*timeline(outcome))


POINTS = [
    ScatterPoint("short:large", "large", 1.0, 0.6, 0.3, 0.8),
    ScatterPoint("mutual/eager", "paper", 49.5, 0.9, 0.6, 0.98),
]
ROWS = [IntervalRow("agree", {"ours": 0.9, "theirs": 0.8}, 0.8, 0.9, "10.0 points")]


def points(*more: ScatterPoint) -> str:
    return svg(scatter([*POINTS, *more], "tokens"), "accuracy against tokens")


ALL: dict[str, Callable[[], str]] = {
    "timeline": lambda: line(OUTCOME),
    "accuracy": points,
    "intervals": lambda: svg(interval_rows(ROWS, "right, %", {"reason:large": 0.95}), "accuracy by extractor"),
}


def texts(drawn: str) -> list[str]:
    return [
        "".join(node.itertext()).strip()
        for node in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("name", ALL)
def test_every_figure_is_valid_xml_with_an_alternative_text(name: str) -> None:
    root = ElementTree.fromstring(ALL[name]())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label")


@pytest.mark.parametrize("name", ALL)
def test_every_figure_takes_the_ink_of_its_page_and_points_nowhere(name: str) -> None:
    drawn = ALL[name]()
    assert "currentColor" in drawn
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)', drawn)


def test_two_figures_in_one_page_share_no_id() -> None:
    ids = [re.findall(r' id="([^"]+)"', draw()) for draw in ALL.values()]
    flat = [name for own in ids for name in own]
    assert len(flat) == len(set(flat))


def test_the_same_record_draws_the_same_figure() -> None:
    assert line(OUTCOME) == line(OUTCOME)


def test_the_time_line_names_roles_calls_hand_off_and_how_its_times_were_got() -> None:
    shown = texts(line(OUTCOME))
    assert {"small", "large", "demo-small", "reason, 58 tokens", "hand-off: 5.0 ms", "answered: 221 ms"} <= set(shown)
    assert "ms since the question was asked (measured)" in shown


def test_cancelled_and_failed_calls_are_in_the_key() -> None:
    cancelled = call("small", Mode.REASON, 0.0, 0.1, finish_reason=FinishReason.CANCELLED, first_token_s=None)
    failed = call("large", Mode.SHORT, 0.0, 0.1, finish_reason=FinishReason.ERROR, usage=Usage())
    drawn = line(Outcome("3", Route.DEGRADED, "mutual", (cancelled, failed), 0.11, "it failed"))
    assert {"cancelled", "failed"} <= set(texts(drawn))
    assert "<pattern" in drawn


def test_a_name_with_dollars_and_angle_brackets_is_drawn_as_it_is() -> None:
    odd = replace(OUTCOME, calls=tuple(replace(c, role="$x_1$ <b>&") for c in CALLS))
    assert "$x_1$ <b>&" in texts(line(odd))
    assert "$a$ <b>" in texts(points(ScatterPoint("$a$ <b>", "paper", 30.0, 0.3, 0.1, 0.5)))


def test_a_request_of_many_seconds_is_drawn_in_seconds() -> None:
    long = replace(OUTCOME, calls=(call("small", Mode.REASON, 0.0, 9.0),), total_s=9.0)
    assert "s since the question was asked (measured)" in texts(line(long))


def test_no_name_lies_on_the_front() -> None:
    arms = (("short:small", 50, 0.4), ("short:large", 55, 0.45), ("transfer", 120, 0.9), ("mutual", 125, 0.95))
    points = [ScatterPoint(name, "paper", cost, right, right - 0.1, right + 0.1) for name, cost, right in arms]
    (axes,) = scatter(points, "tokens", front=True).axes
    ends = [axes.transData.transform((cost, 100 * right)) for _, cost, right in arms]
    for note in axes.texts:
        (left, middle), width = note.xyann, 5.6 * len(note.get_text())
        for one, other in pairwise(ends):
            level = left < other[0] and one[0] < left + width and abs(middle - one[1]) < 5
            upright = left < other[0] < left + width and one[1] < middle < other[1]
            assert not level, note.get_text()
            assert not upright, note.get_text()


def test_names_of_points_close_together_do_not_cover_each_other() -> None:
    spots = [Spot(300 + 4 * i, 200 + 3 * (i % 2), f"strategy number {i}") for i in range(6)]
    boxes = [
        (x, y - 7, x + 6 * len(spot.text), y + 7)
        for spot, (x, y) in zip(spots, place(spots, (0, 0, 640, 400)), strict=True)
    ]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
