"""One call of a served model: its request body, from a prompt and limits, and its streamed answer as events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cuecard.answers.reasoning_parser import ReasoningParser
from cuecard.answers.schemas import ANY_OBJECT
from cuecard.domain.call import AnswerToken, FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream, ContentFiltered
from cuecard.domain.question import Question
from cuecard.models.base import PENALTIES, SAMPLING, TEMPLATE, CallLimits, Event, Extras, Limits, Progress
from cuecard.models.openai.response_body import Chunk, SurrogateJoiner, Token, logprob
from cuecard.models.prompt import Prompt, Turn
from cuecard.models.reasoning_events import ReasoningEvents, RepetitionDetector

# --- the request ------------------------------------------------------------------------------------------------------

Body = dict[str, Any]

LOSSES = {
    "chat_template_kwargs": "thinking cannot be switched",
    "reasoning_effort": "thinking cannot be switched",
    "logprobs": "the confidence of answers is not known",
    "continuous_usage_stats": "the cost of a cancelled call is counted from its pieces",
    "stream_options": "token counts are not known",
    "temperature": "answers are drawn as the server likes, not greedily",
    "top_p": "the server's own top_p holds",
    "seed": "answers cannot be repeated",
    "response_format": "answers may not fit their schema",
    "grammar": "brief answers are not decoded under a grammar",
    "structured_outputs": "brief answers are not decoded under a grammar",
    "regex": "brief answers are not decoded under a grammar",
    "ignore_eos": "answers may be shorter than asked for",
    "min_tokens": "answers may be shorter than asked for",
    "max_tokens": "max_completion_tokens is sent in its place",
    **dict.fromkeys((*SAMPLING, *PENALTIES), "answers are drawn without it"),
    "logit_bias": "no token is made more or less probable",
    "stop": "an answer is cut here, and written to its end there",
    "top_logprobs": "the alternatives of an answer's tokens are not known",
}
"""Parameters that a call can do without if the server refuses them, and what is lost then."""


def messages(turns: tuple[Turn, ...], opening: str) -> list[Body]:
    """Turns, then the beginning of the assistant's turn if there is one."""
    sent = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    return [*sent, {"role": "assistant", "content": opening}] if opening else sent


def _content(turn: Turn) -> str | list[Body]:
    """Plain text if there is no image: not every server accepts content parts for every role."""
    if not turn.images:
        return turn.text
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in turn.images]
    return [*parts, {"type": "text", "text": turn.text}]


def client_part(name: str) -> str:
    """The client's part of a parameter, as a name among left-out ones; `response_format` is all the client's."""
    return name if name == "response_format" else f"the client's {name}"


def free_fields(extras: Extras) -> frozenset[str]:
    """Fields with values that a client chooses: a server that refuses one value may accept others."""
    return frozenset([*extras.passed_fields, *([TEMPLATE] if extras.template else [])])


def of_client(prompt: Prompt, extras: Extras, without: frozenset[str]) -> Body:
    """The fields that a client's request adds to a body."""
    added = extras.passed_fields | dict(extras.sampling)
    if prompt.mode is Mode.REASON or not prompt.is_brief:
        added |= dict(extras.penalties)
    if extras.stop and not extras.stop_is_named:
        added["stop"] = list(extras.stop)
    if extras.logit_bias:
        added["logit_bias"] = dict(extras.logit_bias)
    if extras.template:
        added[TEMPLATE] = extras.template_fields
    if extras.top_logprobs and "logprobs" not in without:
        added["top_logprobs"] = extras.top_logprobs
    return {key: value for key, value in added.items() if client_part(key) not in without}


def body(model: str, prompt: Prompt, opening: str, limits: Limits, max_tokens: int, without: frozenset[str]) -> Body:
    """The body of a streamed request; `without`: parameters to leave out, as the server refuses them."""
    request: Body = {
        **of_client(prompt, limits.extras, without),
        "model": model,
        "messages": messages(prompt.turns, opening),
        "stream": True,
        # running usage (vLLM, SGLang) gives the cost of a call that is cancelled or cut
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": max_tokens,
        "temperature": limits.temperature,
        "logprobs": True,
    }
    if limits.top_p < 1:
        request["top_p"] = limits.top_p
    if limits.seed is not None:
        request["seed"] = limits.seed
    if prompt.schema is not None:
        request["response_format"] = _response_format(prompt.schema, prompt.question)
    if opening:
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    if "max_tokens" in without:  # OpenAI's newer models use another name for it
        request["max_completion_tokens"] = request["max_tokens"]
    if "continuous_usage_stats" in without:
        request["stream_options"] = {"include_usage": True}
    return {key: value for key, value in request.items() if key not in without}


def _response_format(schema: str, question: Question | None) -> Body:
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    fitting: Body = {"name": "answer" if question is None else question.schema_name, "schema": json.loads(schema)}
    if question is not None and question.schema_strict:
        fitting["strict"] = True
    return {"type": "json_schema", "json_schema": fitting}


def merged(request: Body, more: Mapping[str, Any]) -> Body:
    """The request with more fields; objects in both are merged, and `more` overrides."""
    joined = dict(request)
    for key, value in more.items():
        old = joined.get(key)
        joined[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return joined


# --- the reply --------------------------------------------------------------------------------------------------------

_TOKEN, _ONE_TOKEN, _LONGEST_TOKEN = 4, 16, 64
"""Characters per token: the average; the maximum of a piece that counts as one token; the maximum average of a text."""
_SLACK = 64
"""Tokens that a server may send beyond a limit, as it may count differently."""


class StreamedReply:
    """Turns the chunks of one request into events, and keeps its usage."""

    def __init__(
        self,
        parser: ReasoningParser,
        limits: CallLimits,
        spent: Usage | None = None,
        *,
        reasons: bool = False,
        echo: str = "",
        unwrap: Callable[[str], str] | None = None,
    ) -> None:
        """`echo`: the beginning of the answer in the request, which some servers repeat.

        `unwrap`: extracts the answer from the complete content, which is held back until then.
        """
        self.parser = parser
        self.events = ReasoningEvents(parser, reasons=reasons)
        self._limits, self._reasons = limits, reasons
        self._most = limits.answer_tokens + limits.reasoning_tokens if reasons else 2 * limits.answer_tokens + _SLACK
        self._room = self._most * _LONGEST_TOKEN
        self._field_halves, self._content_halves = SurrogateJoiner(), SurrogateJoiner()
        self._field_text: list[str] = []
        self._content_text: list[str] = []
        self._echo, self._unwrap = echo, unwrap
        self._held = ""
        self.finish: FinishReason | None = None
        """As the server reports it; None before that, and if the connection was closed early."""
        self._spent = spent or Usage()
        self._reported: Usage | None = None
        self._counted = self._answer_tokens = 0
        self._repetition = RepetitionDetector()
        self._field_tokens: list[Token] = []
        self._content_tokens: list[Token] = []

    def take(self, chunk: Chunk) -> Iterator[Event]:
        """The events of one chunk."""
        chunk = self._fitting(chunk)
        (self._content_tokens if _is_of_content(chunk) else self._field_tokens).extend(chunk.tokens)
        if chunk.reasoning:
            self._field_text.append(chunk.reasoning)
            yield from self.events.of(self.parser.field(chunk.reasoning))
        if chunk.content:
            self._content_text.append(chunk.content)
            if self._unwrap is None:
                yield from self.events.of(self.parser.feed(self._without_echo(chunk.content)))
        if self._reasons and not self.parser.answering:
            self._repetition.feed(chunk.reasoning or chunk.content)
        self._count(chunk)
        if chunk.finish_reason is not None and self.finish is None:
            self.finish = _finish(chunk.finish_reason)
        if chunk.reasoning or chunk.content or chunk.usage:
            yield Progress(self._spent + self._so_far)

    def end(self) -> Iterator[Event]:
        """The events of text that was held back until the end."""
        yield from self.take(Chunk(self._field_halves.end(), self._content_halves.end()))
        if self._unwrap is not None:
            yield from self.events.of(self.parser.feed(self._unwrap("".join(self._content_text))))
        elif self._held:
            yield from self.events.of(self.parser.feed(self._held))
        yield from self.events.of(self.parser.end(whole=self.finish is FinishReason.STOP))

    def _fitting(self, chunk: Chunk) -> Chunk:
        """The chunk with complete characters only, cut at the limit of characters."""
        reasoning, content = chunk.reasoning, self._content_halves.feed(chunk.content)
        reasoning = self._field_halves.feed(reasoning) if reasoning or not content else self._field_halves.end()
        fitting = reasoning[: self._room], content[: max(0, self._room - len(reasoning))]
        self._room -= len(fitting[0]) + len(fitting[1])
        if fitting == (chunk.reasoning, chunk.content):
            return chunk
        finish = chunk.finish_reason if fitting == (reasoning, content) else "length"
        return replace(chunk, reasoning=fitting[0], content=fitting[1], finish_reason=finish)

    def _without_echo(self, text: str) -> str:
        """The part of a piece of content that is certainly not the echo."""
        if not self._echo:
            return text
        text, self._held = self._held + text, ""
        if self._echo.startswith(text) and text != self._echo:
            self._held = text
            return ""
        echo, self._echo = self._echo, ""
        return text.removeprefix(echo)

    @property
    def is_spent(self) -> bool:
        """Whether to close the connection before the server ends the reply.

        True if the tokens for reasoning or for the answer are used up, or the reasoning repeats itself. Counted here
        because a server has only one limit, for both together, and may not keep to it. If it sends neither log
        probabilities nor running usage, tokens are estimated from the text.
        """
        if self.finish is not None:
            return False
        if not self._reasons:
            return self._counted > self._most
        if self.parser.answering:
            return self._answer_tokens >= self._limits.answer_tokens
        return self._repetition.found or self._counted >= self._limits.reasoning_tokens

    @property
    def cut(self) -> FinishReason:
        """The finish reason of a reasoning that did not end by itself."""
        return FinishReason.REPETITION if self._repetition.found else FinishReason.BUDGET

    @property
    def usage(self) -> Usage:
        """Usage as the server counts it; as observed here if the connection was closed early."""
        usage = self._so_far if self.finish is None else self._reported or Usage()
        if self.parser.reasoned and not usage.reasoning_tokens:  # 0 despite reasoning: not counted
            usage = replace(usage, reasoning_tokens=None if self.parser.answering else usage.completion_tokens)
        return usage

    @property
    def answer_logprob(self) -> float | None:
        """Natural log of the probability of the answer's tokens, None if not observed."""
        return answer_logprob(*self._tokens_and_text, self.parser.answer)

    @property
    def answer_tokens(self) -> tuple[AnswerToken, ...]:
        """The answer's tokens; () if they are not requested, or the log probability of one is not observed."""
        if self._limits.extras.top_logprobs is None:
            return ()
        found = [_observed(token) for token in answer_tokens(*self._tokens_and_text, self.parser.answer)]
        return tuple(token for token in found if token is not None) if None not in found else ()

    @property
    def _tokens_and_text(self) -> tuple[list[Token], str]:
        if self.parser.misfiled:
            return self._field_tokens, "".join(self._field_text)
        return self._content_tokens, "".join(self._content_text)

    @property
    def has_logprobs(self) -> bool:
        return bool(self._field_tokens or self._content_tokens)

    @property
    def _so_far(self) -> Usage:
        reported = self._reported or Usage()
        reasoning = reported.reasoning_tokens
        if not reasoning and self.parser.reasoned:
            reasoning = self._counted - self._answer_tokens
        return Usage(reported.prompt_tokens, reported.cached_tokens, self._counted, reasoning)

    def _count(self, chunk: Chunk) -> None:
        text = bool(chunk.reasoning or chunk.content)
        total = self._counted + (len(chunk.tokens) or _tokens(chunk.reasoning) + _tokens(chunk.content))
        if chunk.usage is not None:
            self._reported = chunk.usage
            total = max(total, chunk.usage.completion_tokens or 0)
        if self.parser.answering and (text or chunk.tokens):
            self._answer_tokens += total - self._counted
        self._counted = total


def _is_of_content(chunk: Chunk) -> bool:
    """Whether a chunk's tokens belong to its content. A whole completion may list those of its reasoning too."""
    if not chunk.reasoning or not chunk.content:
        return not chunk.reasoning
    return "".join(token.text for token in chunk.tokens).startswith(chunk.content)


def _observed(token: Token) -> AnswerToken | None:
    if token.logprob is None:
        return None
    top = tuple(found for each in token.top if (found := _observed(each)) is not None)
    return AnswerToken(token.text.replace("▁", " "), token.logprob, token.utf8, top)


def _tokens(text: str) -> int:
    """Estimated tokens of a piece of text: one, unless it is too long for one."""
    return 1 if 0 < len(text) <= _ONE_TOKEN else -(-len(text) // _TOKEN)


def _finish(reported: str) -> FinishReason:
    match reported.lower():
        case "length" | "max_tokens":
            return FinishReason.LENGTH
        case "content_filter":
            raise ContentFiltered("the server's content filter stopped the answer")
        case "abort" | "error" | "cancelled":
            raise BrokenStream(f"the server gave the answer up ({reported})")
        case _:  # stop, eos, tool_calls, …
            return FinishReason.STOP


_REACH = 8
"""Maximum characters between two tokens, for a token that the server left out of its log probabilities."""


def answer_logprob(tokens: Iterable[Token], text: str, answer: str) -> float | None:
    """Sum of the natural log probabilities of the tokens of the answer, which is at the end of the text.

    None if no token can be placed, or the log probability of one was not observed.
    """
    logprobs = [token.logprob for token in answer_tokens(tokens, text, answer)]
    seen = [each for each in logprobs if each is not None]
    return sum(seen) if seen and len(seen) == len(logprobs) else None


def answer_tokens(tokens: Iterable[Token], text: str, answer: str) -> list[Token]:
    """The tokens of the answer, which is at the end of the text.

    Tokens without text of their own (the end of the turn) do not count.
    """
    start = text.rfind(answer) if answer else -1
    if start < 0:
        return []
    end, at = start + len(answer), 0
    placed: list[Token] = []
    for token in tokens:
        spelled = token.text.replace("▁", " ")
        found = text.find(spelled, at, at + len(spelled) + _REACH) if spelled else -1
        if found >= 0:
            begins, at = found, found + len(spelled)
        elif "\ufffd" in spelled or spelled.startswith("bytes:"):
            begins = at  # a part of a character: it begins where the next token continues
        else:
            continue
        if begins < end and max(at, begins + 1) > start:
            placed.append(token)
    return placed


def scored(prompt_logprobs: object, answer: str) -> float | None:
    """Natural log probability per token of the answer at the end of a prompt, from vLLM's `prompt_logprobs`.

    (tokens,) of null or {token id: {logprob, decoded_token}}, one entry each -> mean; None if the answer is not there.
    """
    wanted, text, logprobs = answer.strip(), "", []
    for entry in reversed(prompt_logprobs if isinstance(prompt_logprobs, list) else []):
        values = list(entry.values()) if isinstance(entry, Mapping) else []
        if not values or not isinstance(values[0], Mapping):
            return None
        token, value = values[0].get("decoded_token"), logprob(values[0].get("logprob"))
        if not isinstance(token, str) or value is None:
            return None
        text = token.replace("▁", " ") + text
        logprobs.append(value)
        if text.strip() == wanted:
            return sum(logprobs) / len(logprobs)
        if len(text) > len(wanted) + 2 * _REACH:
            return None
    return None
