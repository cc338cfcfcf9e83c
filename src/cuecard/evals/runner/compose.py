"""One item answered by every arm: from stored calls in virtual time, or end to end with live models.

    collect   every arm runs once; if it needs calls that are not stored, it pauses and requests them
    make      the requested calls of all arms of the item are made and stored, and the arms resume where they paused
    compose   an arm that has paused is replayed from the start, since all of its calls are stored now

A pause takes no virtual time, so an arm requests exactly the calls that its replay needs, including those that it
starts and then cancels.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cuecard import virtual_time
from cuecard.answers import extract
from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import BadInput, CuecardError, ModelError
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.evals import scorers
from cuecard.evals.arm import Arm, CardSwap, Foreign
from cuecard.evals.database import Record
from cuecard.evals.item import Item
from cuecard.evals.requests import TOKENS, CallRequest, Seat, StoredCalls
from cuecard.evals.runner.replay import ArmCalls, Machine, StoredModel
from cuecard.models import prompt as layouts
from cuecard.models.base import Model
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import UNWATCHED, answer

MOST_SAMPLES = 64
_READ_ROUTES = (Route.TRANSFERRED, Route.REVISED, Route.STOPPED, Route.JUDGED)
Requests = dict[str, CallRequest]
"""Calls by their cache keys."""


@dataclass(frozen=True)
class ArmOutcome:
    """The result of one arm on one item. If the arm failed, `outcome` is None and `error` is set.

    An arm fails if one of its REASON or PROBE calls fails, even if its strategy falls back to another call: the
    fallback's answer does not count for the arm. Other calls that an arm needs raise their error anyway. An answer that
    the short answers settle does not depend on a reasoning started beside them.
    """

    arm: str
    outcome: Outcome | None
    error: CuecardError | None
    calls: tuple[Call, ...]

    @classmethod
    def of(cls, arm: str, outcome: Outcome, calls: tuple[Call, ...]) -> ArmOutcome:
        """The result of an arm that ended with an outcome: failed if its answer depends on a failed call."""
        settled = outcome.route in (Route.AGREED, Route.CONFIRMED)
        lost = (call for call in calls if call.error is not None and call.mode in (Mode.REASON, Mode.PROBE))
        failed = None if settled else next(lost, None)
        if failed is None:
            return cls(arm, outcome, None, calls)
        return cls(arm, None, ModelError(f"the {failed.role} model's {failed.mode} call: {failed.error}"), calls)

    @property
    def generated_tokens(self) -> int:
        return sum(call.usage.completion_tokens or 0 for call in self.calls)


@dataclass(frozen=True)
class TaskItem:
    """An item of a task. `partner`: another item of the task; its card is used as the foreign card."""

    task: str
    item: Item
    partner: Item | None

    @property
    def name(self) -> str:
        return f"{self.task}/{self.item.id}"


class Composition:
    """The arms of one item, each in its own virtual time, so that its times do not depend on other arms.

    It must be closed. An arm with `equal` runs after the arm that it names.
    """

    def __init__(self, item: TaskItem, arms: Iterable[Arm], seats: Mapping[str, Seat], stored: StoredCalls) -> None:
        self._item, self._seats, self._stored = item, seats, stored
        self.outcomes: dict[str, ArmOutcome] = {}
        """Results of the arms that are done, by arm name."""
        self.waiting: dict[str, Requests] = {}
        """The calls that each unfinished arm waits for, by arm name."""
        self._running = {arm.name: self._arm(arm) for arm in arms}
        self._lock = threading.Lock()
        """Held while arms run, because a thread continues after its run is cancelled."""

    def advance(self) -> Requests:
        """Run each arm until it is done or waits for calls. Returns the calls waited for; none if all arms are done.

        Call it again, from any thread, when some of the calls are stored.
        """
        with self._lock:
            for name, running in list(self._running.items()):
                try:
                    self.waiting[name] = next(running)
                except StopIteration as done:
                    self.outcomes[name] = done.value
                    self.waiting.pop(name, None)
                    del self._running[name]
        return {key: request for requests in self.waiting.values() for key, request in requests.items()}

    def close(self) -> None:
        """Cancel the arms that are not done; they get no outcome."""

        def close() -> None:
            with self._lock:
                for running in self._running.values():
                    running.close()
                self._running.clear()

        # on a thread, because an event loop may run in this one; joined even if this task is cancelled
        thread = threading.Thread(target=close)
        thread.start()
        thread.join()

    def _arm(self, arm: Arm) -> Generator[Requests, None, ArmOutcome]:
        """Yield the calls that the arm waits for, and return its result."""
        if arm.equal is None:
            return (yield from self._composed(arm, arm.policy))
        while (measure := self.outcomes.get(arm.equal)) is None:
            yield {}
        for samples in range(1, MOST_SAMPLES + 1):
            outcome = yield from self._composed(arm, replace(arm.policy, samples=samples))
            # as many samples as are expected to generate no more tokens than the arm named by `equal`
            more = outcome.generated_tokens * (samples + 1) / samples
            if outcome.error is not None or more > measure.generated_tokens:
                break
        return outcome

    def _composed(self, arm: Arm, policy: Policy) -> Generator[Requests, None, ArmOutcome]:
        """Replay the arm from stored calls alone. Runs that pause for missing calls come first: usually one."""
        while True:
            calls, has_paused = ArmCalls(self._stored), False
            run = virtual_time.Run(self._answer(arm, policy, calls))
            try:
                # a call that an arm starts and then cancels is part of its cost
                while not run.resume() or calls.requests:
                    requests, calls.requests, has_paused = calls.requests, {}, True
                    yield requests
                if not has_paused:
                    return ArmOutcome.of(arm.name, run.result(), calls.ended)
            except CuecardError as failure:
                return ArmOutcome(arm.name, None, failure, calls.ended)
            finally:
                run.close()

    async def _answer(self, arm: Arm, policy: Policy, calls: ArmCalls) -> Outcome:
        # a stored call that timed out contains the cost of the time-out
        policy = replace(policy, limits=replace(policy.limits, timeout_s=None), strict=True)
        watched = arm.strategy.partition(":")[0] not in UNWATCHED
        machine, overlaps = Machine(self._stored.pace), policy.schedule_of(self._seats) is not Schedule.THRIFTY
        look, question = self._stored.short, self._item.item.question
        models: dict[str, Model] = {
            role: StoredModel(
                seat,
                calls,
                machine,
                streamed=overlaps and arm.placebo is None,
                in_pieces=overlaps or watched or policy.early_stop is not None,
                short=short[1] if overlaps and (short := look(seat, question, policy.limits)) else None,
                cut=policy.cut is not None,
            )
            for role, seat in self._seats.items()
        }

        async def foreign() -> str:
            _, record = await calls.fetch(foreign_request(self._item, arm, self._seats))
            return record["reasoning"] or ""

        models = _with_placebo(models, self._item, arm, foreign)
        return await answer(question, models, arm.strategy, policy, latency_kind=LatencyKind.COMPOSED)


def _with_placebo(models: Mapping[str, Model], item: TaskItem, arm: Arm, foreign: Foreign) -> dict[str, Model]:
    """The models; if the arm has a placebo, the large model is wrapped so that it reads placebo cards."""
    given = dict(models)
    if arm.placebo is not None and "large" in given:
        given["large"] = CardSwap(given["large"], item.item, arm.placebo, arm.policy.card, foreign)
    return given


def foreign_request(item: TaskItem, arm: Arm, seats: Mapping[str, Seat]) -> CallRequest:
    """The call of the small model's reasoning about the partner. Raises BadInput if there is no partner."""
    if item.partner is None:
        raise BadInput("a foreign card needs another question", "give the task more than one item")
    prompt = layouts.reason(item.partner.question, seats["small"].abilities.style)
    return CallRequest(seats["small"], prompt, arm.policy.limits, about=f"{item.task}/{item.partner.id}")


async def live(item: TaskItem, arm: Arm, models: Mapping[str, Model], foreign_card: str | None) -> ArmOutcome:
    """Run one arm end to end with live models. `foreign_card`: the small model's card about the partner, if known."""
    calls: list[Call] = []

    async def foreign() -> str:
        if foreign_card is None:
            raise BadInput("a foreign card needs another question", "give the task more than one item")
        return foreign_card

    models = _with_placebo(models, item, arm, foreign)
    try:
        policy = replace(arm.policy, strict=True)
        outcome = await answer(item.item.question, models, arm.strategy, policy, calls=calls)
        return ArmOutcome.of(arm.live, outcome, tuple(calls))
    except CuecardError as failure:
        return ArmOutcome(arm.live, None, failure, tuple(calls))


# --- records ----------------------------------------------------------------------------------------------------------


def answer_record(item: TaskItem, done: ArmOutcome, kind: LatencyKind) -> Record:
    """The scored answer in the store's format. A failed arm has no answer and no score, but its calls are recorded."""
    outcome = done.outcome
    calls = sorted(done.calls, key=lambda call: (call.start_s, call.end_s))
    total_s = outcome.total_s if outcome is not None else max((call.end_s for call in calls), default=0.0)
    if outcome is None:
        scored: Record = {"reply": None, "parsed": False, "score": None, "scores": {}, "scorer": scorers.version()}
    else:
        scored = scorers.scored(_reply(item.item, outcome, calls), item.item)
    record: Record = {
        "task": item.task,
        "id": item.item.id,
        "arm": done.arm,
        "status": "error" if outcome is None else "ok",
        "route": None if outcome is None else outcome.route,
        "reason": str(done.error) if outcome is None else outcome.reason,
        "answer": None if outcome is None else outcome.answer,
        **scored,
        "truncated": outcome is not None and outcome.truncated,
        "confidence": None if outcome is None else outcome.confidence,
        "latency": {
            "total_s": _rounded(total_s),
            "handoff_s": None if outcome is None else _rounded(outcome.handoff_s),
            "kind": kind,
        },
        "calls": [_call_record(call, total_s) for call in calls],
        "attempts": len(calls) + sum(call.retries for call in calls),
    }
    if outcome is not None:  # counted by the team; the summary checks it against the calls
        record["usage"] = {
            model: {name: getattr(usage, name) for name in TOKENS} for model, usage in outcome.usage.items()
        }
    return record


def _reply(item: Item, outcome: Outcome, calls: Sequence[Call]) -> str:
    """The text that the answer was extracted from: the reader's on its routes, else the last with the same answer."""
    modes = (Mode.SHORT, Mode.REASON, Mode.READ, Mode.PROBE)
    replies = [call for call in calls if call.answer and call.mode in modes]
    if outcome.route in _READ_ROUTES:
        replies = [call for call in replies if call.mode in (Mode.READ, Mode.PROBE)] or replies
    elif outcome.route in (Route.AGREED, Route.CONFIRMED):
        replies = [call for call in replies if call.mode is Mode.SHORT and call.role == "large"] or replies
    for call in reversed(replies):
        text = call.answer or ""
        answer = extract(text, item.question)
        if outcome.answer == (answer.text if answer.parsed else text.strip()):
            return text.strip()
    return outcome.answer


def _call_record(call: Call, total_s: float) -> Record:
    # live: a call that is cancelled when the answer is returned ends slightly later, after its clean-up
    end_s = min(call.end_s, total_s)
    first_s = call.first_token_s
    return {
        "role": call.role,
        "model": call.model,
        "mode": call.mode,
        "key": call.key,
        "start_s": _rounded(min(call.start_s, end_s)),
        "first_token_s": None if first_s is None else _rounded(min(first_s, end_s)),
        "reasoning_end_s": None if call.reasoning_end_s is None else _rounded(min(call.reasoning_end_s, end_s)),
        "end_s": _rounded(end_s),
        **{name: getattr(call.usage, name) for name in TOKENS},
        "finish_reason": call.finish_reason,
        "cancelled": call.cancelled,
        "error": call.error,
        "retries": call.retries,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 7)
