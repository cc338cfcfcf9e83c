"""The Model protocol for a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any

from cuecard.answers import extract_soon
from cuecard.answers.reasoning_parser import ReasoningParser, Start, parse
from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream, Unsupported
from cuecard.domain.question import AnswerKind
from cuecard.models import prompt as layouts
from cuecard.models.base import NAMES, Abilities, AnswerDelta, CallLimits, Event, Finished, Limits, Progress, Started
from cuecard.models.openai.call import (
    LOSSES,
    Body,
    StreamedReply,
    body,
    client_part,
    free_fields,
    merged,
    messages,
    scored,
)
from cuecard.models.openai.connection import Connection, Request
from cuecard.models.openai.families import OPENAI_HOST, Dialect, ServerSettings, constraint_fields, unwrapped
from cuecard.models.openai.response_body import Chunk
from cuecard.models.prompt import CUE, CardFormat, Prompt, Style, conversation, neutral
from cuecard.models.reasoning_events import tags_of

OPENAI_KEY = "OPENAI_API_KEY"
KEY_HINT = 'give its key as api_key = "${NAME}", NAME being the environment variable that holds it'
PREFILL_HINT = "set prefill if its server can, or give cards as notes"
CACHE_HINT = "set prefix_cache if its server does"
SCORING_HINT = "set scoring if its server gives prompt_logprobs"


class OpenAIModel:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, base_url: str, model: str, settings: ServerSettings | None = None, **given: Any) -> None:
        """`given`: fields of `ServerSettings` that override those of `settings`. Raises BadInput."""
        self._given = self._settings = replace(settings or ServerSettings(), **given)
        at_openai = re.match(rf"https://{re.escape(OPENAI_HOST)}(?:/|$)", base_url) is not None
        key = self._given.api_key or (os.environ.get(OPENAI_KEY) if at_openai else None)
        key_hint = f"is the environment variable {OPENAI_KEY} set, and right?" if at_openai else KEY_HINT
        self._base_url, self._timeout_s = base_url, self._given.timeout_s
        self._server = Connection(base_url, model, key, self._timeout_s, key_hint)
        self.name = self._given.name or model
        self.served_name, self.fingerprint = model, ""
        self._family = self._given.family_of(model, base_url)
        self._opens = self._family.opens or (None if self._family.name == "unknown" else False)
        """Whether the chat template opens reasoning by itself. None: unknown."""
        self._extra_body = dict(self._given.extra_body or {})
        self._left_out = frozenset({"logprobs"} if self._given.logprobs is False else ())
        self._seen: dict[str, None] = dict.fromkeys(self._first_notes())
        """Notes in plain English, oldest first."""
        self._abilities: tuple[tuple[object, ...], Abilities] | None = None
        """The abilities and the state behind them, cached because every call reads them several times."""

    @property
    def abilities(self) -> Abilities:
        state = (self._settings, self._server.refused, len(self._seen))
        if self._abilities is None or self._abilities[0] != state:
            self._abilities = state, self._derived_abilities()
        return self._abilities[1]

    def _derived_abilities(self) -> Abilities:
        settings, refused = self._settings, self._server.refused
        lost = [f"the server refuses {key}: {loss}" for key, loss in LOSSES.items() if key in refused]
        return Abilities(
            images=settings.images,
            logprobs=False if "logprobs" in refused else settings.logprobs,
            scoring=settings.scoring,
            prefix_sessions=bool(settings.prefix_cache),
            card_formats=settings.card_formats,
            style=self._style,
            # templates of models with think tags close or drop a think block that the turn leaves open
            resumes=bool(settings.prefill) and self._style.in_prose,
            place=f"{self.url}#{self.served_name}",
            notes=(*self._seen, *lost),
            honours=NAMES - refused - self._left_out,
        )

    @property
    def wrong_path(self) -> str | None:
        """Why the server's address seems to have a wrong path; None if it does not."""
        return self._server.wrong_path

    @property
    def url(self) -> str:
        """The server's address, without a user and password."""
        return self._server.url

    @property
    def _style(self) -> Style:
        style = self._family.style
        cue = CUE if self._settings.prefill and style.in_prose else ""
        return replace(style, cue=cue, constrained=self._settings.constraint is not None)

    def variant(self, **changed: Any) -> OpenAIModel:
        """The same model with other settings, and connections of its own."""
        return OpenAIModel(self._base_url, self.served_name, self._given, **changed)

    def adapt(self, found: Mapping[str, Any], *, short_answers: bool | None = None) -> None:
        """Apply settings that a probe has found, unless they were given. `short_answers`: they come short."""
        changes = {name: value for name, value in found.items() if getattr(self._given, name) is None}
        self._settings = replace(self._settings, **changes)
        if self._opens is None and short_answers:
            self._opens = False
        self._seen, self._abilities = dict.fromkeys(self._first_notes()), None

    async def listing(self) -> list[Mapping[str, Any]]:
        """The entries of the server's list of models. Raises ModelError."""
        return await self._server.listing()

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """As `Model.stream`."""
        limits = limits.of(prompt)
        deadline = None if limits.timeout_s is None else asyncio.get_running_loop().time() + limits.timeout_s
        reasons = prompt.mode is Mode.REASON
        first = self._reply(prompt, limits)
        held: list[AnswerDelta] | None = [] if reasons and _is_structured(prompt) else None
        began = False

        def shown(events: Iterable[Event]) -> Iterator[Event]:
            for event in events:
                if held is not None and isinstance(event, AnswerDelta):
                    held.append(event)
                else:
                    yield event

        async with aclosing(self._chunks(prompt, limits, deadline)) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    yield Started()
                for event in shown(first.take(chunk)):
                    yield event
                if first.is_spent:
                    break
        for event in shown(first.end()):
            yield event
        self._learn(prompt, first)
        for event in shown(first.events.close()):
            yield event
        answered = first.parser.answering and (held is None or await _fits(held, prompt))
        if not reasons or answered or not first.parser.reasoned:
            for event in held or ():
                yield event
            yield Finished(first.usage, first.finish or FinishReason.LENGTH, first.answer_logprob, first.answer_tokens)
            return
        # The reasoning was cut, or has no answer, or none that fits the schema: close it, and request the answer.
        closing = self._closed(prompt, first.parser.reasoning)
        second = self._reply(closing, limits, first.usage)
        async with aclosing(self._chunks(closing, limits, deadline)) as chunks:
            async for chunk in chunks:
                for event in second.take(chunk):
                    if isinstance(event, AnswerDelta | Progress):
                        yield event
                if second.is_spent:
                    break
        for event in second.end():
            if isinstance(event, AnswerDelta | Progress):
                yield event
        self._learn(closing, second)
        finish = second.finish or FinishReason.LENGTH
        if finish is FinishReason.STOP and first.finish is not FinishReason.STOP:
            finish = first.cut
        yield Finished(first.usage + second.usage, finish, second.answer_logprob, second.answer_tokens)

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`, by requesting one token and discarding it."""
        if not self._settings.prefix_cache:
            raise Unsupported(f"{self.name} is not known to keep what it has computed", hint=CACHE_HINT)
        limits = Limits().of(prompt)
        reply = self._reply(prompt, limits)
        request = self._request(prompt, limits, max_tokens=1, without=frozenset({"logprobs"}))
        async with aclosing(self._server.chunks(request, self._latest(), conversation(prompt))) as chunks:
            async for chunk in chunks:
                for _ in reply.take(chunk):
                    pass
        return reply.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        """As `Model.score`, from vLLM's `prompt_logprobs`; it computes the whole prompt, cached or not."""
        if not self._settings.scoring:
            raise Unsupported(f"{self.name} is not known to score answers", hint=SCORING_HINT)
        plain: Body = {
            "model": self.served_name,
            "messages": messages(prompt.turns, prompt.opening + neutral(answer)),
            "continue_final_message": True,
            "add_generation_prompt": False,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }

        def request(refused: frozenset[str]) -> Body:
            switch = {key: value for key, value in self._family.off.items() if key not in refused}
            needed = {key: value for key, value in plain.items() if key not in refused}
            if "max_tokens" in refused:
                needed["max_completion_tokens"] = 1
            return merged(merged(needed, switch), self._extra_body)

        data = await self._server.whole(request, self._latest(), conversation(prompt))
        value = scored(data.get("prompt_logprobs"), neutral(answer))
        if value is None:
            raise BrokenStream(f"{self._server.url} gave no log probabilities for the answer {answer[:40]!r}")
        return value

    def passed(self, body: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncGenerator[dict[str, Any]]]:
        """The JSON objects of the response to a client's own body, sent unchanged except for the model's name."""
        messages = body.get("messages")
        beginning = json.dumps(messages[:2] if isinstance(messages, list) else None)
        return self._server.passed({**body, "model": self.served_name}, self._latest(), beginning.encode())

    async def aborted(self) -> float | None:
        """The server's count of requests that clients aborted; None if it reports none."""
        return await self._server.aborted()

    def forget(self) -> None:
        """Does nothing: the server's cache cannot be dropped from here."""

    async def aclose(self) -> None:
        """As `Model.aclose`."""
        await self._server.aclose()

    def _chunks(self, prompt: Prompt, limits: CallLimits, deadline: float | None) -> AsyncGenerator[Chunk]:
        """The chunks of the response to a prompt. Raises Unsupported."""
        most = limits.answer_tokens + (limits.reasoning_tokens if prompt.mode is Mode.REASON else 0)
        free = free_fields(limits.extras) | (frozenset() if prompt.schema is None else frozenset({"response_format"}))
        return self._server.chunks(self._request(prompt, limits, most), deadline, conversation(prompt), free)

    def _request(
        self, prompt: Prompt, limits: Limits, max_tokens: int, without: frozenset[str] = frozenset()
    ) -> Request:
        """A function that makes the request bodies of one call. Raises Unsupported."""
        if prompt.images and self._settings.images is False:
            raise Unsupported(f"{self.name} takes no images")
        opening, dialect = self._opening(prompt), self._settings.dialect
        switch = self._family.on if prompt.mode is Mode.REASON else self._family.off
        if limits.extras.stop and not self._may_stop(prompt):
            limits = replace(limits, extras=replace(limits.extras, stop=()))
        without |= frozenset(client_part(key) for key in limits.extras.passed_fields if key in self._extra_body)

        def request(refused: frozenset[str]) -> Body:
            left_out = refused | without | self._left_out
            switched = {key: value for key, value in switch.items() if key not in left_out}
            plain = body(self.served_name, prompt, opening, limits, max_tokens, left_out)
            if dialect is not None and prompt.constrained and prompt.question is not None:
                grammar = constraint_fields(prompt.question, dialect)
                plain |= {key: value for key, value in grammar.items() if key not in left_out}
            return merged(merged(plain, switched), self._extra_body)

        return request

    def _may_stop(self, prompt: Prompt) -> bool:
        """Whether the server may end a call at the client's stop texts: only if no reasoning can contain one."""
        if prompt.mode not in (Mode.SHORT, Mode.READ) or prompt.question is None:
            return False
        sent = bool(self._opening(prompt))
        outside = self._start(prompt, sent=sent) is Start.OUTSIDE and (self._family.stops or sent)
        return outside and prompt.question.kind is AnswerKind.FREE_TEXT

    def _opening(self, prompt: Prompt) -> str:
        """The beginning of the assistant's turn that has to be sent; "" for none. Raises Unsupported."""
        style = prompt.style
        if prompt.opening == style.opening and prompt.mode is Mode.REASON:
            # With thinking on, chat templates open the reasoning themselves. Sending the opening would do harm: Qwen3's
            # template puts an empty think block before an assistant message that does not close its own.
            native = self._family.on or self._family.opens
            return prompt.opening if self._settings.prefill and not native else ""
        if prompt.schema is not None and prompt.opening == style.none and self._family.off:
            return ""  # a parameter switches thinking off, and servers match a schema from the turn's beginning
        if not self._settings.prefill and prompt.opening not in (style.none, style.none + style.cue):
            raise Unsupported(f"{self.name} is not known to go on with a given reasoning", hint=PREFILL_HINT)
        if not self._settings.prefill:
            return ""
        # for the same reason an unfinished card is sent closed: only its last cache block is computed again
        return prompt.opening + style.closing if prompt.unfinished and prompt.opening != style.none else prompt.opening

    def _closed(self, prompt: Prompt, reasoning: str) -> Prompt:
        """The prompt of the second stage of a reasoning call, in which only the answer follows."""
        # servers match a schema from the beginning of the assistant's turn, which therefore holds no reasoning
        if prompt.question is None or (self._settings.prefill and not _is_structured(prompt)):
            return prompt.closed_after(reasoning)
        forms = [form for form in self.abilities.card_formats if form is not CardFormat.THINKING] or [CardFormat.NOTES]
        return layouts.read(prompt.question, reasoning, forms[0], prompt.style)

    def _reply(self, prompt: Prompt, limits: CallLimits, spent: Usage | None = None) -> StreamedReply:
        wrapped = self._settings.dialect is Dialect.JSON_SCHEMA and prompt.constrained
        return StreamedReply(
            self._parser(prompt),
            limits,
            spent,
            reasons=prompt.mode is Mode.REASON,
            echo=self._opening(prompt),
            unwrap=unwrapped if wrapped else None,
        )

    def _parser(self, prompt: Prompt) -> ReasoningParser:
        style, reasons, sent = prompt.style, prompt.mode is Mode.REASON, bool(self._opening(prompt))
        tags, more = tags_of(style, self._given.reasoning_tags), self._given.reasoning_tags
        closing = (*([style.closing.strip()] if style.opening else []), *(more[1:] if more else []))
        return ReasoningParser(
            self._start(prompt, sent=sent),
            reasons=reasons,
            prose=reasons and style.in_prose,
            brief=prompt.is_brief,
            readable=prompt.answered_by,
            may_think=not self._family.stops and not sent,
            closing=closing,
            tags=tags,
        )

    def _start(self, prompt: Prompt, *, sent: bool) -> Start:
        """Whether the content begins inside reasoning. Depends on prompt and family only, the same for all requests.

        With thinking on, the content is reasoning until it closes, whether the template, this prompt or the model
        opens it. In a short answer, a closing tag without an opening one is parsed only if the template opens reasoning
        by itself (`opens`), or may do so (unknown family): such answers are held back until they are complete. Not
        covered: a model of a known family that still thinks, after an opening tag in its template, with thinking off.
        """
        if prompt.mode is Mode.REASON:
            return Start.INSIDE
        unknown = self._opens is None and self._given.reasoning_tags is None
        return Start.UNSURE if (unknown or self._opens) and not sent else Start.OUTSIDE

    def _learn(self, prompt: Prompt, reply: StreamedReply) -> None:
        """Update notes and settings by what a reply shows about its server."""
        parser = reply.parser
        if prompt.mode is not Mode.REASON:
            if parser.reasoned:
                self._note("it thinks although thinking is switched off: short answers may come late, or empty")
            if parse(parser.answer).reasoning:
                self._note("the end of a reasoning appeared in a short answer: set family, always if it always thinks")
        if parser.misfiled:
            self._note("its server puts short answers into the reasoning field: they are taken from there")
        known = "logprobs" in self._server.refused | self._left_out or self._settings.logprobs is reply.has_logprobs
        if parser.answering and not known:
            self._settings = replace(self._settings, logprobs=reply.has_logprobs)

    def _note(self, text: str) -> None:
        self._seen[text] = None

    def _first_notes(self) -> list[str]:
        family, notes = self._family, []
        if family.name == "unknown" and self._opens is None:
            notes.append(
                "its family is not known: thinking is switched off, reasoning asked for as prose, and short answers "
                "are held back until they are whole; set family"
            )
        if not family.stops and not self._settings.prefill:
            notes.append("its thinking cannot be switched off: short answers may come back empty; prefill would help")
        if self._settings.prefill is None:
            notes.append("its server is not known to go on with a given reasoning: cards come as notes; set prefill")
        return notes

    def _latest(self) -> float | None:
        """The deadline of a call without limits, on the event loop's clock; None: no deadline."""
        return None if self._timeout_s is None else asyncio.get_running_loop().time() + self._timeout_s


def _is_structured(prompt: Prompt) -> bool:
    """Whether the answer, apart from the reasoning, has to fit a schema."""
    return prompt.question is not None and prompt.question.schema is not None


async def _fits(deltas: Sequence[AnswerDelta], prompt: Prompt) -> bool:
    assert prompt.question is not None
    return (await extract_soon("".join(piece.text for piece in deltas), prompt.question)).parsed
