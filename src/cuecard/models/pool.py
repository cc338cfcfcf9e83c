"""Several replicas of one model as one Model: affinity, limits, retries before the first token, circuit breakers."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, cast

from cuecard.domain.call import Usage
from cuecard.domain.errors import ModelBusy, ModelError, ModelRefused, ModelTimeout, ModelUnreachable, Unsupported
from cuecard.models.base import (
    Abilities,
    AnswerDelta,
    Event,
    Finished,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    Started,
    Weighed,
    Weigher,
    Weighing,
)
from cuecard.models.prompt import Prompt, conversation

Clock = Callable[[], float]
ATTEMPTS = 4
BACKOFF_S, LONGEST_WAIT_S = 0.2, 5.0
RETRY_SHARE, MOST_SAVED_RETRIES = 0.2, 10.0
LOAD_BOUND = 1.25
"""A replica with more than this many times its share of the calls is not chosen for its prefix cache."""


class BreakerState(StrEnum):
    """The state of a circuit breaker."""

    CLOSED = "closed"
    """Calls are made."""
    OPEN = "open"
    """No calls are made: too many have failed."""
    HALF_OPEN = "half_open"
    """One call at a time is made, as a test."""


class Breaker:
    """Opens after `failures` in a row, and lets one call through after `cooldown_s` seconds.

    Failures of a reachable server count once for each conversation, as the request may be the cause.
    """

    def __init__(self, clock: Clock, failures: int = 5, cooldown_s: float = 15.0) -> None:
        self._clock, self._most, self._cooldown_s = clock, failures, cooldown_s
        self._failures, self._opened_at, self._probing = 0, -math.inf, False
        self._counted: set[bytes] = set()
        """Conversations of the failures in the current row."""

    @property
    def state(self) -> BreakerState:
        if self._failures < self._most:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._probing or self.opens_in_s > 0 else BreakerState.HALF_OPEN

    @property
    def opens_in_s(self) -> float:
        """Seconds until a call may try again."""
        return max(0.0, self._opened_at + self._cooldown_s - self._clock())

    def begin(self) -> None:
        self._probing = self.state is BreakerState.HALF_OPEN

    def end(self, failed: bool | None, about: bytes | None = None) -> None:
        """Record the end of a call; `failed`: None if it shows nothing about the server (cancelled, refused).

        `about`: the conversation, for a failure that counts once per conversation; None: the failure always counts.
        """
        self._probing = False
        if failed is False:
            self._failures = 0
            self._counted.clear()
        elif failed:
            self._opened_at = self._clock()
            if self._failures < self._most and about not in self._counted:
                self._failures += 1
                self._counted |= set() if about is None else {about}


@dataclass
class Replica:
    """One server of a model, with its circuit breaker and its calls."""

    model: Model
    breaker: Breaker
    weight: float = 1.0
    most: int | None = None
    """Most concurrent calls; None: no limit."""
    running: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.most or sys.maxsize)

    @asynccontextmanager
    async def call(self, conversing: Callable[[], bytes]) -> AsyncGenerator[None]:
        """Encloses a call: waits for a slot in order of arrival, and reports the call's end to the breaker.

        `conversing`: returns the identity of the call's conversation.
        """
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.breaker.begin()
        failed: bool | None = None
        about: bytes | None = None
        try:
            yield
            failed = False
        except ModelError as error:
            # a server that is busy, or that refuses a request, works
            failed = None if isinstance(error, ModelBusy | ModelRefused | Unsupported) else True
            if not isinstance(error, ModelUnreachable | ModelTimeout):
                about = conversing()
            raise
        finally:
            self.breaker.end(failed, about)
            self.running -= 1
            self._places.release()

    @property
    def load(self) -> float:
        return (self.running + self.waiting) / self.weight


class CallCost(Protocol):
    """The reserved cost of a call."""

    usage: Usage
    """Its tokens so far."""

    def again(self, error: ModelError) -> None:
        """Called before a failed call is retried. Raises ModelError to prevent it."""


class Pool:
    """Replicas of one model, which implements the Model protocol.

    Calls about one conversation go to one replica as long as it is up and not overloaded, so that its prefix cache
    helps. A call that fails before its first token is retried, on another replica if there is one. Retries are at most
    a fifth of the calls, so that they do not overload a server that already fails.
    """

    def __init__(self, replicas: Sequence[Replica], rng: random.Random | None = None) -> None:
        self.replicas, self._rng = list(replicas), rng or random.Random()
        self._saved_retries = MOST_SAVED_RETRIES
        self.retries = 0

    @property
    def name(self) -> str:
        return self.replicas[0].model.name

    @property
    def abilities(self) -> Abilities:
        return self.replicas[0].model.abilities

    @property
    def up(self) -> bool:
        """Whether any server accepts calls."""
        usable = (each for each in self.replicas if getattr(each.model, "wrong_path", None) is None)
        return any(replica.breaker.state is not BreakerState.OPEN for replica in usable)

    @property
    def wrong_paths(self) -> list[str]:
        """Errors in the addresses of servers."""
        paths = (getattr(replica.model, "wrong_path", None) for replica in self.replicas)
        return [wrong for wrong in paths if wrong is not None]

    async def stream(
        self, prompt: Prompt, limits: Limits, cost: AbstractContextManager[CallCost] | None = None
    ) -> AsyncGenerator[Event]:
        """As `Model.stream`. `cost`: a context entered for the call with its retries; it may refuse each retry."""
        clock = asyncio.get_running_loop().time
        deadline = math.inf if limits.timeout_s is None else clock() + limits.timeout_s
        self._saved_retries = min(MOST_SAVED_RETRIES, self._saved_retries + RETRY_SHARE)
        tried: list[Replica] = []
        with nullcontext() if cost is None else cost as charged:
            while True:
                replica, has_begun = self._choose(prompt, tried), False
                left = limits
                if tried and deadline != math.inf:
                    left = replace(limits, timeout_s=max(0.0, deadline - clock()))
                try:
                    async with (
                        replica.call(partial(conversation, prompt)),
                        aclosing(replica.model.stream(prompt, left)) as events,
                    ):
                        async for event in events:
                            has_begun = has_begun or isinstance(event, ReasoningDelta | AnswerDelta)
                            if charged is not None and isinstance(event, Progress | Finished):
                                charged.usage = event.usage
                            if not (isinstance(event, Started) and tried):
                                yield event
                    return
                except ModelError as error:
                    tried.append(replica)
                    wait_s = self._retry_in_s(error, tried)
                    if has_begun or clock() + wait_s >= deadline:
                        raise
                    self._saved_retries -= 1
                    if charged is not None:
                        charged.again(error)
                    self.retries += 1
                    await asyncio.sleep(wait_s)

    async def warm(self, prompt: Prompt) -> Usage:
        replica = self._choose(prompt, [])
        async with replica.call(partial(conversation, prompt)):
            return await replica.model.warm(prompt)

    async def score(self, prompt: Prompt, answer: str) -> float:
        replica = self._choose(prompt, [])
        async with replica.call(partial(conversation, prompt)):
            return await replica.model.score(prompt, answer)

    async def weigh(self, prompt: Prompt, answer: str, by: Weighing) -> tuple[Weighed, Usage]:
        replica = self._choose(prompt, [])
        async with replica.call(partial(conversation, prompt)):
            return await cast(Weigher, replica.model).weigh(prompt, answer, by)

    @asynccontextmanager
    async def passed(self, body: Mapping[str, Any]) -> AsyncGenerator[AsyncGenerator[dict[str, Any]]]:
        """As `OpenAIModel.passed`, of one server. Raises Unsupported if there is none."""
        replica = min(self._up(), key=lambda replica: replica.load)
        passes = getattr(replica.model, "passed", None)
        if passes is None:
            raise Unsupported(f"{self.name} runs in this process, where only questions are answered")
        async with replica.call(partial(_messages, body)), passes(body) as events:
            yield events

    def forget(self) -> None:
        for replica in self.replicas:
            replica.model.forget()

    async def aclose(self) -> None:
        await asyncio.gather(*(replica.model.aclose() for replica in self.replicas))

    def _choose(self, prompt: Prompt, tried: Sequence[Replica]) -> Replica:
        """The replica of this conversation, or the least loaded if it is down, full, or far above its share."""
        up = self._up()
        fresh = [replica for replica in up if replica not in tried] or up
        home = max(fresh, key=lambda replica: _attraction(conversation(prompt), self.replicas.index(replica), replica))
        share = (sum(replica.load for replica in fresh) + 1) / len(fresh)
        full = home.most is not None and home.running >= home.most
        return min(fresh, key=lambda replica: replica.load) if full or home.load > LOAD_BOUND * share else home

    def _up(self) -> list[Replica]:
        """The replicas that accept calls. Raises ModelUnreachable if there is none."""
        up = [replica for replica in self.replicas if replica.breaker.state is not BreakerState.OPEN]
        if not up:
            soon = min(replica.breaker.opens_in_s for replica in self.replicas)
            gone = ModelUnreachable(f"every server of {self.name} has failed of late", f"try again in {soon:.0f} s")
            gone.retry_after_s = soon
            raise gone
        return up

    def _retry_in_s(self, error: ModelError, tried: Sequence[Replica]) -> float:
        """Seconds until a retry: 0 on another server; else as the server requests, or exponential backoff with jitter.

        Infinite if the call must not be retried.
        """
        if not error.retryable or len(tried) >= ATTEMPTS or self._saved_retries < 1:
            return math.inf
        if len(set(map(id, tried))) < len(self.replicas):
            return 0.0
        if error.retry_after_s is not None:
            return error.retry_after_s
        return float(min(LONGEST_WAIT_S, BACKOFF_S * 2 ** (len(tried) - 1)) * self._rng.uniform(0.5, 1.0))


def pool_of(model: Model) -> Pool:
    """A pool with one replica."""
    return Pool([Replica(model, Breaker(time.monotonic))])


def _messages(body: Mapping[str, Any]) -> bytes:
    """A hash of the conversation of a request that is passed on."""
    return hashlib.blake2b(repr(body.get("messages")).encode(errors="replace"), digest_size=16).digest()


def _attraction(key: bytes, index: int, replica: Replica) -> float:
    """Weighted rendezvous hashing (Thaler and Ravishankar 1998): the replica with the highest value gets the key."""
    drawn = int.from_bytes(hashlib.blake2b(key + index.to_bytes(4, "big"), digest_size=8).digest(), "big")
    return -replica.weight / math.log((drawn + 1) / (2**64 + 1))
