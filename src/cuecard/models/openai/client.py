"""A model behind an OpenAI-compatible server, as the Model protocol has it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream, Unsupported
from cuecard.models.base import Abilities, AnswerDelta, Event, Finished, Limits, Progress, Started
from cuecard.models.openai.connection import Connection, Request
from cuecard.models.openai.families import OPENAI_HOST, Family, family_of, named
from cuecard.models.openai.likelihood import scored
from cuecard.models.openai.marks import Start
from cuecard.models.openai.reasoning import Hearing
from cuecard.models.openai.reply import Reply
from cuecard.models.openai.wire import LOSSES, Body, body, merged, messages
from cuecard.models.prompt import NOTES, CardFormat, Prompt, neutral

OPENAI_KEY = "OPENAI_API_KEY"
KEY_HINT = 'give its key as api_key = "${NAME}", NAME being the environment variable that holds it'
PREFILL_HINT = "set prefill if its server can, or give cards as notes"
CACHE_HINT = "set prefix_cache if its server does"
SCORING_HINT = "set scoring if its server gives prompt_logprobs"
UNMARKED_HINT = "try again: from now on its short answers are held back until they are whole"


class OpenAIModel:
    """A model behind HTTP. What is not known of its server is None, and done without.

    `family` is a row of `families.FAMILIES`, by default the one that the model's name tells of. `timeout_s` is the
    longest silence of the server that is borne; `Limits.timeout_s` bounds a whole call. `prefill`: the server goes on
    with a last assistant message (`continue_final_message`) and its template keeps what stands in it, which only a look
    at the rendered prompt can tell. `prefix_cache`: what was computed once is kept, so that `warm` is worth its while.
    `scoring`: the server gives `prompt_logprobs` (vLLM).
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str | None = None,
        api_key: str | None = None,
        family: str | Family | None = None,
        timeout_s: float | None = 120.0,
        extra_body: Mapping[str, Any] | None = None,
        prefill: bool | None = None,
        prefix_cache: bool = False,
        scoring: bool = False,
        images: bool | None = None,
        logprobs: bool | None = None,
    ) -> None:
        openai_itself = re.match(rf"https://{re.escape(OPENAI_HOST)}(?:/|$)", base_url) is not None
        key = api_key or (os.environ.get(OPENAI_KEY) if openai_itself else None)
        key_hint = f"is the environment variable {OPENAI_KEY} set, and right?" if openai_itself else KEY_HINT
        self._server = Connection(base_url, model, key, timeout_s, key_hint)
        self._model, self._name, self._timeout_s = model, name or model, timeout_s
        if family is None or family == "auto":
            family = family_of(model, base_url)
        self._family = named(family) if isinstance(family, str) else family
        self._extra_body = dict(extra_body or {})
        self._prefill, self._prefix_cache, self._scoring = prefill, prefix_cache, scoring
        self._images, self._logprobs = images, logprobs
        self._left_out = frozenset({"logprobs"} if logprobs is False else ())
        self._opens = self._family.opens
        self._shorts_proven: bool | None = None
        """Short answers come without reasoning. None: not known, and until then they are held back till the end."""
        self._seen: dict[str, None] = dict.fromkeys(self._first_notes())

    @property
    def name(self) -> str:
        return self._name

    @property
    def abilities(self) -> Abilities:
        formats = tuple(form for form in CardFormat if self._prefill or form is not CardFormat.THINKING)
        lost = [f"the server refuses {key}: {loss}" for key, loss in LOSSES.items() if key in self._server.refused]
        return Abilities(
            images=self._images,
            logprobs=False if "logprobs" in self._server.refused else self._logprobs,
            scoring=self._scoring,
            prefix_sessions=self._prefix_cache,
            card_formats=formats,
            style=self._family.style,
            notes=(*self._seen, *lost),
        )

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        """As `Model.stream`."""
        deadline = None if limits.timeout_s is None else asyncio.get_running_loop().time() + limits.timeout_s
        first = Reply(self._hearing(prompt))
        async with aclosing(self._exchange(prompt, limits, first, deadline)) as events:
            async for event in events:
                yield event
        if prompt.mode is not Mode.REASON or first.hearing.answer or not first.hearing.reasoning:
            yield Finished(first.usage, first.finish or FinishReason.LENGTH, first.answer_logprob)
            return
        # The reasoning was cut, or nothing came behind it: it is closed, and the answer asked for.
        closing = self._closed(prompt, first.hearing.reasoning)
        second = Reply(self._hearing(closing), first.usage)
        async with aclosing(self._exchange(closing, limits, second, deadline)) as events:
            async for event in events:
                if isinstance(event, AnswerDelta | Progress):
                    yield event
        finish = second.finish or FinishReason.LENGTH
        if finish is FinishReason.STOP and first.finish is not FinishReason.STOP:
            finish = FinishReason.BUDGET
        yield Finished(first.usage + second.usage, finish, second.answer_logprob)

    async def warm(self, prompt: Prompt) -> Usage:
        """As `Model.warm`: one token is asked for and thrown away."""
        if not self._prefix_cache:
            raise Unsupported(f"{self.name} is not known to keep what it has computed", hint=CACHE_HINT)
        reply = Reply(self._hearing(prompt))
        request = self._request(prompt, Limits(), max_tokens=1, without=frozenset({"logprobs"}))
        async with aclosing(self._server.chunks(request, self._latest())) as chunks:
            async for chunk in chunks:
                for _ in reply.take(chunk):
                    pass
        return reply.usage

    async def score(self, prompt: Prompt, answer: str) -> float:
        """As `Model.score`, from vLLM's `prompt_logprobs`; it computes the whole prompt, cached or not."""
        if not self._scoring:
            raise Unsupported(f"{self.name} is not known to score answers", hint=SCORING_HINT)
        plain: Body = {
            "model": self._model,
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

        data = await self._server.whole(request, self._latest())
        value = scored(data.get("prompt_logprobs") if isinstance(data, Mapping) else None, neutral(answer))
        if value is None:
            raise BrokenStream(f"{self._server.url} gave no log probabilities for the answer {answer[:40]!r}")
        return value

    def passed(self, body: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncGenerator[str]]:
        """The lines of the server's answer to a request that is not ours: nothing of it is changed but the model."""
        return self._server.passed({**body, "model": self._model}, self._latest())

    async def aborted(self) -> float | None:
        """Requests that the server says it has given up because their clients had gone; None where it does not tell."""
        return await self._server.aborted()

    def forget(self) -> None:
        """The server keeps what it likes."""

    async def aclose(self) -> None:
        """As `Model.aclose`."""
        await self._server.aclose()

    async def _exchange(
        self, prompt: Prompt, limits: Limits, reply: Reply, deadline: float | None
    ) -> AsyncGenerator[Event]:
        """One request and its answer, `reply` keeping the account; Started first, no Finished."""
        reasons = prompt.mode is Mode.REASON
        most = limits.answer_tokens + (limits.reasoning_tokens if reasons else 0)
        began = False
        async with aclosing(self._server.chunks(self._request(prompt, limits, most), deadline)) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    yield Started()
                for event in reply.take(chunk):
                    yield event
                if reply.hearing.betrayed:
                    self._learn(prompt, reply)
                    raise BrokenStream(f"{self.name} sent its reasoning as if it were the answer", hint=UNMARKED_HINT)
                if reply.spent_out(limits) if reasons else reply.runs_away(limits):
                    break
        for event in reply.end():
            yield event
        self._learn(prompt, reply)

    def _request(
        self, prompt: Prompt, limits: Limits, max_tokens: int, without: frozenset[str] = frozenset()
    ) -> Request:
        """Makes the bodies of one call. Raises Unsupported."""
        if prompt.images and self._images is False:
            raise Unsupported(f"{self.name} takes no images")
        opening = self._opening(prompt)
        switch = self._family.on if prompt.mode is Mode.REASON else self._family.off

        def request(refused: frozenset[str]) -> Body:
            left_out = refused | without | self._left_out
            switched = {key: value for key, value in switch.items() if key not in left_out}
            plain = body(self._model, prompt, opening, limits, max_tokens, left_out)
            return merged(merged(plain, switched), self._extra_body)

        return request

    def _opening(self, prompt: Prompt) -> str:
        """What the assistant's turn is to begin with, as far as it must be sent. Raises Unsupported."""
        style = prompt.style
        if prompt.opening == style.opening and prompt.mode is Mode.REASON:
            # Templates open the reasoning by themselves when thinking is on. Sent along, it would do harm: Qwen3's puts
            # an empty think block before an assistant message that does not close its own.
            native = self._family.on or self._family.opens
            return prompt.opening if self._prefill and not native else ""
        if not self._prefill and prompt.opening != style.none:
            raise Unsupported(f"{self.name} is not known to go on with a given reasoning", hint=PREFILL_HINT)
        if not self._prefill:
            return ""
        # for the same reason a card that is still being written is sent closed: only its last block is computed again
        return prompt.opening + style.closing if prompt.unfinished and prompt.opening != style.none else prompt.opening

    def _closed(self, prompt: Prompt, reasoning: str) -> Prompt:
        """The second stage of a reasoning call: nothing but the answer is left to say."""
        if self._prefill:
            return prompt.closed_after(reasoning)
        *before, user = prompt.turns
        asked = user.text.replace(prompt.style.ask_to_reason, "") if prompt.style.ask_to_reason else user.text
        noted = replace(user, text=f"{asked}\n\n{NOTES}\n{neutral(reasoning).strip()}")
        return Prompt((*before, noted), prompt.style.none, prompt.style, Mode.READ, reasoning)

    def _hearing(self, prompt: Prompt) -> Hearing:
        reasons = prompt.mode is Mode.REASON
        sent = self._opening(prompt)
        if not reasons:
            closed = bool(sent) and self._shorts_proven is not False
            start = Start.OUTSIDE if closed or self._shorts_proven else Start.UNSURE
        elif not prompt.style.opening:  # all prose is reasoning till its last line, tagged or not
            start = Start.OUTSIDE
        else:
            start = Start.INSIDE if sent or self._opens else Start.UNSURE
        return Hearing(prompt.style, start, reasons=reasons, may_think=not self._family.stops and not sent)

    def _learn(self, prompt: Prompt, reply: Reply) -> None:
        """What an answer tells about its server, for the next ones."""
        hearing, reasons = reply.hearing, prompt.mode is Mode.REASON
        if reasons:
            self._opens = self._opens or (hearing.stray and bool(prompt.style.opening))
        elif hearing.stray or hearing.betrayed:
            self._shorts_proven = False
            self._note("the end of a reasoning appeared in a short answer: these are held back until they are whole")
        elif reply.finish is FinishReason.STOP and not hearing.reasoning and self._shorts_proven is None:
            self._shorts_proven = True
        if not reasons and hearing.reasoning:
            self._note("it thinks although it is told not to: short answers may come late, or empty")
        if hearing.misfiled:
            self._note("its server puts short answers into the reasoning field: they are taken from there")
        if hearing.answer and "logprobs" not in self._server.refused | self._left_out:
            self._logprobs = reply.has_logprobs

    def _note(self, text: str) -> None:
        self._seen[text] = None

    def _first_notes(self) -> list[str]:
        family, notes = self._family, []
        if family.name == "unknown":
            notes.append("its family is not known: thinking is switched off, reasoning asked for as prose; set family")
        if not family.stops and not self._prefill:
            notes.append("its thinking cannot be switched off: short answers may come back empty; prefill would help")
        if self._prefill is None:
            notes.append("its server is not known to go on with a given reasoning: cards come as notes; set prefill")
        return notes

    def _latest(self) -> float | None:
        """When a call that has no limits of its own has to be over, on the event loop's clock."""
        return None if self._timeout_s is None else asyncio.get_running_loop().time() + self._timeout_s
