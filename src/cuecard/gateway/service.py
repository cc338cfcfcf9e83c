"""The pair behind the wire: which strategy a request gets, and what of its work a client may hear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

from cuecard.answers import extract
from cuecard.domain.call import Call, Mode
from cuecard.domain.errors import BrokenStream, NoAnswer
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway import names, tools
from cuecard.gateway.chat import Asked
from cuecard.gateway.config import Config, Prices, Upstream
from cuecard.gateway.pool import Breaker, Pool, Replica
from cuecard.gateway.tools import ToolCall
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.pair import policy_with
from cuecard.strategies import cuts
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import known, stream
from cuecard.strategies.team import Heard


@dataclass(frozen=True)
class Said:
    """A piece of text for the client."""

    text: str
    is_reasoning: bool


@dataclass(frozen=True)
class Called:
    """Calls of tools that the client is to make."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True)
class Plan:
    """How a request is going to be answered."""

    strategy: str
    policy: Policy


class Service:
    """Models in their roles, and what holds where a request does not say."""

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        strategy: str = "mutual",
        free_form: str = "transfer",
        policy: Policy | None = None,
        pass_to: str | None = None,
        prices: Mapping[str, Prices] | None = None,
    ) -> None:
        known(strategy), known(free_form)
        self.pass_to = pass_to
        """The role that gets what is beyond a pair; None: it is refused."""
        self.prices = prices or {}
        """By role; of roles that have any."""
        self.models, self.strategy, self.free_form = models, strategy, free_form
        self.policy = policy or Policy()
        self.concrete = {model.name: role for role, model in models.items()}
        self.idle, self.busy = asyncio.Event(), asyncio.Event()
        """No client's request is under way; some are."""
        self.idle.set()
        self._under_way = 0

    @classmethod
    def configured(cls, config: Config) -> Service:
        """The service that a configuration describes.

        Loads models in this process. Raises BadInput, MissingExtra.
        """
        pools = {role: Pool([_replica(one, role) for one in upstreams]) for role, upstreams in config.roles.items()}
        pair, policy = config.pair, config.policy(Policy())
        cuts.check(policy.cut, pools)
        return cls(
            pools,
            strategy=pair.strategy,
            free_form=pair.free_form,
            policy=policy,
            pass_to=pair.pass_to,
            prices=config.prices,
        )

    @property
    def served(self) -> list[Model]:
        """Every replica's model."""
        pools = [model for model in self.models.values() if isinstance(model, Pool)]
        return [replica.model for pool in pools for replica in pool.replicas]

    def plan(self, asked: Asked) -> Plan:
        """Strategy and policy of a request: of its `cuecard` object, its model's name, or the configuration.

        Raises BadInput, UnknownModel.
        """
        settings, most_s = dict(asked.settings), self.policy.deadline_s
        if most_s is not None and "deadline_s" in settings:
            settings["deadline_s"] = min(most_s, settings["deadline_s"])
        wanted = settings.pop("strategy", None)
        if (role := self.concrete.get(asked.model)) is not None:
            strategy = f"reason:{role}" if "budget" in settings else f"short:{role}"
        elif asked.model in names.VIRTUAL:
            named, schedule = names.VIRTUAL[asked.model]
            strategy = wanted or named or self._default(asked)
            if schedule is not None:
                settings.setdefault("schedule", schedule)
        else:
            raise names.unknown(asked.model, self.concrete)
        known(strategy)
        if strategy == "mutual" and asked.question.kind is AnswerKind.FREE_TEXT and not self._can_compare():
            strategy = "transfer"  # nobody could say whether two descriptions are the same
        return Plan(strategy, policy_with(self.policy, **settings))

    def _default(self, asked: Asked) -> str:
        return self.free_form if asked.question.kind is AnswerKind.FREE_TEXT else self.strategy

    def _can_compare(self) -> bool:
        return "large" in self.models and self.models["large"].abilities.scoring

    async def listen(self, asked: Asked, plan: Plan, calls: list[Call]) -> AsyncGenerator[Said | Called | Outcome]:
        """What a client may hear as it comes, and at last the outcome. Closing it ends every call.

        Reasoning is that of the first call that reasons. Of the answer nothing is said that might be replaced: a
        free-form one as the last call speaks it, any other whole, at the end. `calls`: as in `run.answer`.
        """
        with self.at_work():
            async with aclosing(self._listen(asked, plan, calls)) as heard:
                async for item in heard:
                    yield item

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a client's request is under way."""
        self._under_way += 1
        self.idle.clear()
        self.busy.set()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.busy.clear()
                self.idle.set()

    async def _listen(self, asked: Asked, plan: Plan, calls: list[Call]) -> AsyncGenerator[Said | Called | Outcome]:
        thinker, told = None, ""
        alone = plan.strategy.startswith(("short", "reason"))
        async with aclosing(stream(asked.question, self.models, plan.strategy, plan.policy, calls)) as heard:
            async for item in heard:
                match item:
                    case Heard(is_reasoning=True, call=call) if thinker in (None, call):
                        thinker = call
                        yield Said(item.text, True)
                    case Heard(is_reasoning=False, mode=mode) if asked.question.kind is AnswerKind.FREE_TEXT and (
                        alone or mode is Mode.READ
                    ):
                        told += item.text
                        yield Said(item.text, False)
                    case Outcome():
                        outcome = item if told else never_empty(asked.question, item, strict=plan.policy.strict)
                        if told and told.strip() != outcome.answer.strip():
                            raise BrokenStream(f"the answer broke off: {outcome.reason}")
                        if asked.tools is not None:
                            for piece in answered(asked, outcome):
                                yield piece
                            yield outcome
                            return
                        answer = told or written(asked.question, outcome)
                        if not told:
                            yield Said(answer, False)
                        yield replace(outcome, answer=answer)

    async def aclose(self) -> None:
        for model in self.models.values():
            await model.aclose()


def answered(asked: Asked, outcome: Outcome) -> Iterator[Said | Called]:
    """The calls of tools in an answer, or its text piece by piece. Raises BrokenStream, as `tools.calls_of`."""
    if (calls := tools.calls_of(asked, outcome)) is not None:
        yield Called(calls)
        return
    for piece in tools.pieces(tools.text_of(asked, outcome)):
        yield Said(piece, False)


def written(question: Question, outcome: Outcome) -> str:
    """The answer as the client's options have it: of numbered ones, the number and the text."""
    return (outcome.answer_text if question.labels else None) or outcome.answer


def never_empty(question: Question, outcome: Outcome, *, strict: bool) -> Outcome:
    """The outcome, or what another call has said instead of nothing: reasoned before short, the large model's first.

    Raises NoAnswer when there is nothing, or nobody else is to answer.
    """
    if outcome.answer.strip():
        return outcome
    spoken = [call for call in outcome.calls if call.answer and not (call.cancelled or call.error)]
    if strict or not spoken:
        raise NoAnswer(f"the answer came back empty: {outcome.reason}", "allow more tokens")
    best = max(spoken, key=lambda call: (call.mode is not Mode.SHORT, call.role == "large"))
    found = extract(best.answer or "", question)
    reason = f"the answer came back empty; what the {best.role} model has said stands"
    text = found.text if found.parsed else best.answer or ""
    return replace(outcome, answer=text, route=Route.DEGRADED, reason=reason, confidence=None, truncated=False)


def _replica(upstream: Upstream, role: str) -> Replica:
    return Replica(spec.load(upstream.table(), role), Breaker(time.monotonic), upstream.weight, upstream.most_at_once)
