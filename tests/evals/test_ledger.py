"""Token counts add up, and records that contradict themselves are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.evals.analysis.ledger import LedgerError, Price, Spending, by_model, check, ledger, watts


def call(
    mode: str = "short", model: str = "large", start: float = 0.0, end: float = 1.0, **more: Any
) -> dict[str, Any]:
    made = {"role": model, "model": model, "mode": mode, "key": "k", "start_s": start, "first_token_s": None}
    made |= {"end_s": end, "prompt_tokens": 100, "cached_tokens": 0, "completion_tokens": 0, "reasoning_tokens": 0}
    return made | {"finish_reason": "stop", "cancelled": False} | more


def record(*calls: dict[str, Any], id: str = "1", route: str | None = "direct", **more: Any) -> dict[str, Any]:
    ends = max((one["end_s"] for one in calls), default=0.0)
    made = {"task": "boards", "id": id, "arm": "mutual", "status": "ok", "route": route, "calls": list(calls)}
    return made | {"latency": {"total_s": ends + 0.25, "handoff_s": None, "kind": "composed"}} | more


MUTUAL = record(
    call("short", "small", 0, 1, first_token_s=0.8, completion_tokens=2),
    call("short", "large", 0, 2, first_token_s=1.5, completion_tokens=2, prompt_tokens=150),
    call("reason", "small", 2, 7, first_token_s=2.5, completion_tokens=50, reasoning_tokens=45, cached_tokens=90),
    call("warm", "large", 3, 4, cached_tokens=100, prompt_tokens=120),
    call("read", "large", 7, 8, first_token_s=7.75, completion_tokens=3, prompt_tokens=170, cached_tokens=165),
    route="transferred",
)


def test_a_call_is_divided_at_its_first_token():
    rows = {(row.model, row.mode, row.stage): row.spent for row in ledger([MUTUAL]).rows}
    assert rows["small", "reason", "prefill"] == Spending(
        calls=1, prompt_tokens=100, cached_tokens=90, computed_tokens=10, seconds=0.5
    )
    assert rows["small", "reason", "decode"] == Spending(completion_tokens=50, reasoning_tokens=45, seconds=4.5)
    assert rows["large", "warm", "warm"].computed_tokens == 20
    assert {row.stage for row in ledger([MUTUAL]).rows} <= {"prefill", "decode", "score", "weigh", "warm"}


def test_routes_sum_to_the_questions_and_seconds_to_the_latency():
    made = ledger([MUTUAL, record(call(), id="2", route="agreed"), record(id="3", route=None, status="error")])
    assert {route.route: route.answers for route in made.routes} == {"transferred": 1, "agreed": 1, "error": 1}
    transferred = next(route for route in made.routes if route.route == "transferred")
    assert (transferred.busy_s, transferred.idle_s, transferred.latency_s) == pytest.approx((8.0, 0.25, 8.25))
    assert made.total.calls == 6
    assert sum(row["calls"] for row in made.as_object()["rows"]) == 6


def test_a_card_that_was_read_is_not_wasted_though_its_call_was_cancelled():
    card = call("reason", "small", 0, 1, first_token_s=0.5, completion_tokens=9, reasoning_tokens=7)
    card |= {"finish_reason": "cancelled", "reasoning_end_s": 0.9}
    read = call("read", "large", 1, 2, first_token_s=1.5, completion_tokens=1)
    assert ledger([record(card, read, route="transferred")]).total.wasted_tokens == 2, "what began behind the card"
    assert ledger([record(card, read, route="agreed")]).total.wasted_tokens == 100 + 9


def test_what_a_cancelled_or_failed_call_has_used_is_wasted_but_counted():
    dismissed = call("reason", "small", 0, 1, first_token_s=0.5, completion_tokens=7, finish_reason="cancelled")
    failed = call("read", "large", 1, 2, cached_tokens=40, finish_reason="error")
    total = ledger([record(dismissed, failed)]).total
    assert total.wasted_tokens == 100 + 7 + 60
    assert total.completion_tokens == 7


def test_uncounted_tokens_differ_from_no_tokens():
    blind = {"prompt_tokens": None, "cached_tokens": None, "completion_tokens": None, "reasoning_tokens": None}
    total = ledger([record(call(**blind), call(cached_tokens=None))]).total
    assert (total.uncounted, total.unseen_tokens, total.computed_tokens) == (1, 100, 0)


def test_a_price_is_the_sum_over_models_and_none_where_one_has_none():
    prices = {"large": Price(10, 30, cached=1), "small": Price(1, 2)}
    made = ledger([MUTUAL], prices)
    large = (150 + 20 + 5) * 10 + (100 + 165) * 1 + 5 * 30
    assert made.price == pytest.approx((large + 200 * 1 + 52 * 2) / 1e6)
    assert ledger([MUTUAL], {"large": prices["large"]}).price is None
    assert ledger([MUTUAL]).rows[0].price is None


def test_energy_is_estimated_from_watts_and_seconds_of_work_and_none_where_a_model_s_are_not_known():
    made = ledger([MUTUAL], powers={"large": 300.0, "small": 50.0})
    by = {model: sum(row.spent.seconds for row in made.rows if row.model == model) for model in ("small", "large")}
    assert made.energy_j == pytest.approx(300 * by["large"] + 50 * by["small"])
    assert sum(row.energy_j for row in made.rows) == pytest.approx(made.energy_j)
    assert made.as_object()["total"]["energy_j"] == made.energy_j
    assert ledger([MUTUAL], powers={"large": 300.0}).energy_j is None
    assert ledger([MUTUAL]).energy_j is None
    assert watts("ORG/NAME=350") == ("ORG/NAME", 350.0)
    for wrong in ("large", "=3", "large=-1", "large=nan"):
        with pytest.raises(BadInput, match="is no power"):
            watts(wrong)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (record(call(first_token_s=2.0)), "ends before its first token"),
        (record(call(start=0.5, first_token_s=0.2)), "before it begins"),
        (record(call(cached_tokens=101)), "more prompt tokens are cached"),
        (record(call(completion_tokens=1, reasoning_tokens=2)), "more tokens are reasoning"),
        (record(call(), latency={"total_s": 0.5}), "ends after its answer"),
        (record(call(), route="teleported"), "no route is called 'teleported'"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused_by_its_name(spoiled, message):
    with pytest.raises(LedgerError, match=message) as refused:
        ledger([spoiled])
    assert "boards 1 mutual" in str(refused.value)
    assert isinstance(refused.value, CuecardError)


def test_a_question_that_is_answered_twice_is_refused():
    with pytest.raises(LedgerError, match="answered 2 times"):
        ledger([record(call()), record(call())])


def test_a_total_that_is_not_the_sum_of_its_parts_is_found():
    made = ledger([MUTUAL])
    with pytest.raises(LedgerError, match="prompt_tokens: 640 in all, 740 in its parts"):
        check(made.total, [MUTUAL, record(call(), id="2")])
    for field in ("calls", "completion_tokens", "seconds"):
        swollen = replace(made.total, **{field: getattr(made.total, field) + 1})
        with pytest.raises(LedgerError, match=field):
            check(swollen, [MUTUAL])
    with pytest.raises(LedgerError, match="prompt tokens"):
        check(replace(made.total, unseen_tokens=made.total.unseen_tokens + 1), [MUTUAL])


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    start, first, end = sorted(draw(st.tuples(*[st.floats(0, 100)] * 3)))
    prompt, completion = draw(st.none() | st.integers(0, 9999)), draw(st.none() | st.integers(0, 9999))
    return call(
        draw(st.sampled_from(["short", "reason", "read", "warm", "score"])),
        draw(st.sampled_from(["small", "large"])),
        start,
        end,
        first_token_s=draw(st.sampled_from([None, first])),
        prompt_tokens=prompt,
        cached_tokens=draw(st.none() | st.integers(0, prompt or 0)),
        completion_tokens=completion,
        reasoning_tokens=draw(st.none() | st.integers(0, completion or 0)),
        finish_reason=draw(st.sampled_from(["stop", "cancelled", "error", "budget"])),
    )


@given(
    st.lists(
        st.tuples(st.lists(calls(), max_size=5), st.sampled_from(["agreed", "transferred", "degraded"])), max_size=8
    )
)
def test_whatever_was_called_every_total_equals_its_parts(answered):
    records = [record(*made, id=str(place), route=route) for place, (made, route) in enumerate(answered)]
    made = ledger(records, {"small": Price(1, 2), "large": Price(3, 4)})
    assert made.total.calls == sum(len(each["calls"]) for each in records)


def test_a_price_or_power_is_given_once_a_model():
    assert by_model("--watts", ["a=1", "b=2"], watts) == {"a": 1.0, "b": 2.0}
    with pytest.raises(BadInput, match="--price is given twice for 'a'"):
        by_model("--price", ["a=1,2", "a=1,3"], Price.parse)
