"""Answers in the formats of chat completions and legacy completions; requests of the latter become chat completions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from cuecard.answers import extract
from cuecard.answers import json_replies as form
from cuecard.domain.call import AnswerToken, Usage
from cuecard.domain.errors import BadInput, BrokenStream, CuecardError
from cuecard.domain.outcome import Outcome, outcome_as_object
from cuecard.domain.question import Calling
from cuecard.gateway.tables import Prices, costs
from cuecard.gateway.wire.parameters import Json, object_of, reading
from cuecard.gateway.wire.request import Fetch, ParsedRequest, Unanswered, parse_translated, split
from cuecard.gateway.wire.tools import ToolCall, as_json, pieces
from cuecard.models.base import Limits

PING = b": ping\n\n"
"""A comment among server-sent events: it keeps a connection alive."""


def sse(data: Json | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def event(kind: str, data: Json) -> bytes:
    """One named server-sent event; its data begins with its type."""
    return f"event: {kind}\n".encode() + sse({"type": kind, **data})


def problem(error: CuecardError) -> Json:
    """An error body in OpenAI's format."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "api_error")
    code = error.code or type(error).__name__
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": code}}


def usage(outcome: Outcome | Unanswered) -> Json:
    """Tokens over all calls, cancelled ones included; unobserved counts are 0 here and null in the breakdown."""
    total = Usage()
    for call in outcome.calls:
        total = total + call.usage
    prompt, completion = total.prompt_tokens or 0, total.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens or 0},
    }


def account(outcome: Outcome, limits: Limits, prices: Mapping[str, Prices]) -> Json:
    """The `cuecard` object: how the answer came about and what it cost, by model and by call; no texts."""
    account = outcome_as_object(outcome)
    del account["answer"]
    for call in account["calls"]:
        del call["reasoning"], call["answer"]
    account["latency"]["overhead_s"] = outcome.overhead_s
    account["limits"] = {"answer_tokens": limits.of_answer(outcome.kind), "reasoning_tokens": limits.reasoning_tokens}
    by_role = costs(outcome.calls, prices)
    account["cost"] = {"total": sum(by_role.values()), **by_role} if prices else None
    return account


def request_id(request: str) -> dict[str, str]:
    """The request's id in the headers that OpenAI's and Anthropic's clients read."""
    return {"x-request-id": request, "request-id": request}


def headers(request: str, outcome: Outcome) -> dict[str, str]:
    """The most important part of the `cuecard` object as response headers."""
    return {
        **request_id(request),
        "x-cuecard-route": outcome.route,
        "x-cuecard-latency-ms": f"{outcome.total_s * 1000:.1f}",
        "x-cuecard-overhead-ms": f"{outcome.overhead_s * 1000:.2f}",
    }


def calls_of(parsed: ParsedRequest, outcome: Outcome) -> tuple[ToolCall, ...] | None:
    """The tool calls of an answer, with the same ids each time; None if it is a text, or was cut.

    Raises BrokenStream if a tool had to be called, the reply was not cut, and it calls none.
    """
    if parsed.tools is None:
        return None
    reply = _reply(parsed, outcome)
    if form.CALLS in reply:
        called = reply[form.CALLS] if parsed.tools.parallel else reply[form.CALLS][:1]
        return tuple(_call(parsed.id, at, call) for at, call in enumerate(called))
    if parsed.tools.calling is Calling.REQUIRED and not outcome.truncated:
        raise BrokenStream("the models were to call a tool, and have not", "try again, or offer fewer tools")
    return None


def text_of(parsed: ParsedRequest, outcome: Outcome) -> str:
    """The text of an answer that calls no tool; if it was cut, the text before the cut."""
    if parsed.tools is None:
        return outcome.answer
    reply = _reply(parsed, outcome)
    if form.ANSWER not in reply:
        return form.cut_answer(outcome.answer) if parsed.tools.calling is Calling.AUTO else ""
    answer = reply[form.ANSWER]
    return answer if isinstance(answer, str) and parsed.tools.answer is None else as_json(answer)


def _reply(parsed: ParsedRequest, outcome: Outcome) -> Json:
    """The JSON of a reply; {} if it is none."""
    found = extract(outcome.answer, parsed.question)
    read: Json = json.loads(found.text) if found.parsed else {}
    return read


def _call(request: str, at: int, call: Json) -> ToolCall:
    digest = hashlib.blake2b(f"{request} {at}".encode(), digest_size=12).hexdigest()
    return ToolCall(f"call_{digest}", call[form.NAME], as_json(call[form.ARGUMENTS]))


class ChatWriter:
    """A chat completion, whole or event by event."""

    ping = PING

    def __init__(self, parsed: ParsedRequest) -> None:
        self._parsed = parsed
        self._legacy = parsed.tools is not None and parsed.tools.legacy

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json:
        """The answer, with the reasoning unless the request excludes it."""
        parsed, calls = self._parsed, calls_of(self._parsed, outcome)
        content = text_of(parsed, outcome) if calls is None else None
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if calls is not None:
            functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
            identified = [{"id": call.id, "type": "function"} for call in calls]
            listed = [one | {"function": function} for one, function in zip(identified, functions, strict=True)]
            message |= {"function_call": functions[0]} if self._legacy else {"tool_calls": listed}
        if parsed.reasoning_field and reasoning:
            message[parsed.reasoning_field] = reasoning
        choice = {
            "message": message,
            "finish_reason": self._finish(outcome, calls),
            "logprobs": self._logprobs(outcome),
        }
        return self._object("chat.completion", choice) | {"usage": usage(outcome), "cuecard": account}

    def begin(self) -> list[bytes]:
        return [sse(self._chunk({"role": "assistant", "content": "" if self._parsed.tools is None else None}))]

    def reasoning(self, text: str) -> list[bytes]:
        field = self._parsed.reasoning_field
        return [sse(self._chunk({field: text}))] if field else []

    def content(self, text: str) -> list[bytes]:
        return [sse(self._chunk({"content": text}))]

    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]:
        """Chunks of each call: its id and name first, then its arguments."""
        deltas: list[Json] = []
        for index, call in enumerate(calls):
            named = {"name": call.name, "arguments": ""}
            if self._legacy:
                deltas += [{"function_call": named}]
                deltas += [{"function_call": {"arguments": piece}} for piece in pieces(call.arguments)]
                continue
            deltas += [{"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": named}]}]
            more = ({"index": index, "function": {"arguments": piece}} for piece in pieces(call.arguments))
            deltas += [{"tool_calls": [each]} for each in more]
        return [sse(self._chunk(delta)) for delta in deltas]

    def end(self, outcome: Outcome, account: Json) -> list[bytes]:
        """Log probabilities, the finish reason, and usage if it is requested; then the end of the stream."""
        events = []
        if (tokens := self._logprobs(outcome)) is not None:
            events.append(sse(self._chunk({"content": ""}, tokens=tokens)))
        events.append(
            sse(self._chunk({}, self._finish(outcome, calls_of(self._parsed, outcome))) | {"cuecard": account})
        )
        if self._parsed.include_usage:
            events.append(sse(self._chunk({}) | {"choices": [], "usage": usage(outcome)}))
        return [*events, sse("[DONE]")]

    def fail(self, error: CuecardError) -> list[bytes]:
        return [sse(problem(error)), sse("[DONE]")]

    def _finish(self, outcome: Outcome, calls: Sequence[ToolCall] | None = None) -> str:
        """Why the visible answer ends, in OpenAI's words."""
        if calls is not None:
            return "function_call" if self._legacy else "tool_calls"
        return "length" if outcome.truncated else "stop"

    def _logprobs(self, outcome: Outcome) -> Json | None:
        """The log probabilities of the visible answer's tokens; None if not requested or unknown."""
        if not self._parsed.parameters.logprobs or not outcome.tokens or self._parsed.tools is not None:
            return None
        tokens = [_token(each) | {"top_logprobs": [_token(other) for other in each.top]} for each in outcome.tokens]
        return {"content": tokens, "refusal": None}

    def _chunk(self, delta: Json, finish: str | None = None, tokens: Json | None = None) -> Json:
        choice = {"delta": delta, "finish_reason": finish, "logprobs": tokens}
        return self._object("chat.completion.chunk", choice) | ({"usage": None} if self._parsed.include_usage else {})

    def _object(self, kind: str, choice: Json) -> Json:
        parsed = self._parsed
        base = {"id": parsed.id, "object": kind, "created": parsed.created, "model": parsed.model}
        return base | {"choices": [{"index": 0, **choice}]}


def _token(token: AnswerToken) -> Json:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.encoded)}


# --- legacy completions -----------------------------------------------------------------------------------------------

EXAMPLE = '{"model": "cuecard", "prompt": "…"}'
UNSUPPORTED: Mapping[str, tuple[object, str]] = {
    "suffix": ("", "put all of the text into the prompt"),
    "echo": (False, "leave it out: only the answer comes back"),
    "best_of": (1, "leave it out, or use cuecard/vote"),
    "logprobs": (None, "use /v1/chat/completions, or the confidence in the cuecard object"),
}
"""Parameters that a pair does not support: the value without effect, and what to do instead."""
OF_CHAT = ("messages", "tools", "functions")
OWN = ("prompt", "include_reasoning", "reasoning", *UNSUPPORTED)


def parse_completion(body: object, fetch: Fetch) -> ParsedRequest:
    """Parse a legacy completions request; its prompt becomes a user message. Raises BadInput."""
    given, translated = split(body, OWN, EXAMPLE)
    for key, (harmless, hint) in UNSUPPORTED.items():
        if given.get(key, harmless) != harmless:
            raise BadInput(f"{key} is not supported by a pair of models", hint, param=key)
    for key in OF_CHAT:
        if key in translated:
            raise BadInput(f"{key} is no parameter of completions", "use /v1/chat/completions", param=key)
    with reading("prompt"):
        translated["messages"] = [{"role": "user", "content": _prompt(given.get("prompt"))}]
    translated["reasoning"] = object_of(given, "reasoning") | {"exclude": True}
    return parse_translated(translated, fetch, "cmpl", {"messages": "prompt"})


def _prompt(given: object) -> str:
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(each, int | list) for each in texts):
        raise BadInput("the prompt is a list of token ids", "send a text (in lm-eval: tokenized_requests=False)")
    if len(texts) > 1:
        raise BadInput(f"there are {len(texts)} prompts", "send one request for each (in lm-eval: batch_size=1)")
    if not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise BadInput("the prompt is empty", f"send {EXAMPLE}")
    return texts[0]


class CompletionWriter(ChatWriter):
    """A text completion, whole or chunk by chunk, without the reasoning; this API has no tools."""

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json:
        choice = {"text": outcome.answer, "finish_reason": self._finish(outcome), "logprobs": None}
        return self._object("text_completion", choice) | {"usage": usage(outcome), "cuecard": account}

    def begin(self) -> list[bytes]:
        return []

    def _chunk(self, delta: Json, finish: str | None = None, tokens: Json | None = None) -> Json:
        choice = {"text": delta.get("content", ""), "finish_reason": finish, "logprobs": None}
        return self._object("text_completion", choice) | ({"usage": None} if self._parsed.include_usage else {})
