"""The legacy completions wire: the prompt is a user's message, and the answer a text without the reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.gateway.wire import chat, translation, usage
from cuecard.gateway.wire.chat import Fetch, ParsedRequest, sse
from cuecard.gateway.wire.parameters.values import object_of, reading
from cuecard.gateway.wire.tools.tools import ToolCall
from cuecard.gateway.wire.usage import Json

EXAMPLE = '{"model": "cuecard", "prompt": "…"}'
HARMLESS = {"suffix": "", "echo": False, "best_of": 1, "logprobs": None}
"""Parameters that a pair cannot honour, and their values that change nothing."""
WHY_NOT = {
    "suffix": "put all of the text into the prompt",
    "echo": "leave it out: only the answer comes back",
    "best_of": "leave it out, or use cuecard/vote",
    "logprobs": "use /v1/chat/completions, or the confidence in the cuecard object",
}
OF_CHAT = ("messages", "tools", "functions")
OWN = ("prompt", "include_reasoning", "reasoning", *HARMLESS)


def parse(body: object, fetch: Fetch) -> ParsedRequest:
    """A request in the terms of chat completions. Raises BadInput."""
    given, translated = translation.split(body, OWN, EXAMPLE)
    for key, harmless in HARMLESS.items():
        if given.get(key, harmless) != harmless:
            raise BadInput(f"{key} is not supported by a pair of models", WHY_NOT[key], param=key)
    for key in OF_CHAT:
        if key in translated:
            raise BadInput(f"{key} is no parameter of completions", "use /v1/chat/completions", param=key)
    with reading("prompt"):
        translated["messages"] = [{"role": "user", "content": _prompt(given.get("prompt"))}]
    translated["reasoning"] = object_of(given, "reasoning") | {"exclude": True}
    return translation.parse(translated, fetch, "cmpl", {"messages": "prompt"})


def _prompt(given: object) -> str:
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(each, int | list) for each in texts):
        raise BadInput("the prompt is a list of token ids", "send a text (in lm-eval: tokenized_requests=False)")
    if len(texts) > 1:
        raise BadInput(f"there are {len(texts)} prompts", "send one request for each (in lm-eval: batch_size=1)")
    if not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise BadInput("the prompt is empty", f"send {EXAMPLE}")
    return texts[0]


class CompletionWriter:
    """A text completion, whole or chunk by chunk."""

    ping = chat.PING

    def __init__(self, parsed: ParsedRequest) -> None:
        self._parsed = parsed

    def whole(self, outcome: Outcome, reasoning: str, account_: Json) -> Json:
        """The answer; the reasoning is left out."""
        completion = self._completion(outcome.answer, chat.finish_reason(outcome))
        return completion | {"usage": usage.usage(outcome), "cuecard": account_}

    def begin(self) -> list[bytes]:
        return []

    def reasoning(self, text: str) -> list[bytes]:
        return []

    def content(self, text: str) -> list[bytes]:
        return [sse(self._chunk(text))]

    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]:
        """None: this wire takes no tools."""
        return []

    def end(self, outcome: Outcome, account_: Json) -> list[bytes]:
        events = [sse(self._chunk("", chat.finish_reason(outcome)) | {"cuecard": account_})]
        if self._parsed.include_usage:
            events.append(sse(self._chunk("") | {"choices": [], "usage": usage.usage(outcome)}))
        return [*events, sse("[DONE]")]

    def fail(self, error: CuecardError) -> list[bytes]:
        return [sse(chat.problem(error)), sse("[DONE]")]

    def _chunk(self, text: str, finish: str | None = None) -> Json:
        return self._completion(text, finish) | ({"usage": None} if self._parsed.include_usage else {})

    def _completion(self, text: str, finish: str | None) -> Json:
        parsed = self._parsed
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        base = {"id": parsed.id, "object": "text_completion", "created": parsed.created, "model": parsed.model}
        return base | {"choices": [choice]}
