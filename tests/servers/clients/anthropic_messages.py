"""Anthropic's own client against a gateway.   python anthropic_messages.py http://127.0.0.1:8400/v1 cuecard

Prints `ok NAME` for each case; ends with status 1 if one fails.
"""

from __future__ import annotations

import base64
import io
import sys
import traceback
from collections.abc import Callable
from typing import Any

import anthropic
from PIL import Image, ImageDraw

COUNT = "What is 7 times 8? Answer with a number."
DESCRIBE = "Describe what a cat is."
URL, MODEL = sys.argv[1].rstrip("/").removesuffix("/v1"), sys.argv[2] if len(sys.argv) > 2 else "cuecard"
CLIENT = anthropic.Anthropic(base_url=URL, api_key=sys.argv[3] if len(sys.argv) > 3 else "none", max_retries=0)
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 512, "messages": [{"role": "user", "content": COUNT}]}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def picture() -> str:
    drawn = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(drawn).rectangle((20, 20, 70, 70), fill="red")
    drawn.save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


def text() -> None:
    message = CLIENT.messages.create(**ASKED, system="Be brief.")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 0
    assert message.model_extra["cuecard"]["route"]
    assert message._request_id == message.id


def blocks_and_cache_control() -> None:
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    content = [{"type": "text", "text": COUNT, "cache_control": {"type": "ephemeral"}}]
    asked = ASKED | {"messages": [{"role": "user", "content": content}]}
    assert CLIENT.messages.create(**asked, system=[cached], metadata={"user_id": "u"}).content[0].text


def image() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": picture()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What colour is it? Answer with a word."}]
    message = CLIENT.messages.create(**ASKED | {"messages": [{"role": "user", "content": content}]})
    assert message.content[0].text


def thinking() -> None:
    message = CLIENT.messages.create(**ASKED | {"model": "cuecard/transfer"}, thinking=THINKING)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking
    assert message.content[0].signature
    again = [
        *ASKED["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Sure?"},
    ]
    assert CLIENT.messages.create(**ASKED | {"messages": again}).content[-1].text


def stream() -> None:
    with CLIENT.messages.stream(**ASKED | {"model": "cuecard/transfer"}, thinking=THINKING) as events:
        kinds = list(dict.fromkeys(event.type for event in events))
        final = events.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].signature
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def raw_stream() -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": DESCRIBE}]}
    events = list(CLIENT.messages.create(**asked, stream=True))
    written = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert written
    assert events[-2].model_extra["cuecard"]["route"]


def cut() -> None:
    asked = ASKED | {"max_tokens": 2, "messages": [{"role": "user", "content": DESCRIBE}]}
    assert CLIENT.messages.create(**asked, extra_body={"temperature": 0.0}).stop_reason in ("max_tokens", "end_turn")


def count_tokens() -> None:
    counted = CLIENT.messages.count_tokens(model=MODEL, messages=ASKED["messages"], system="Be brief.")
    assert counted.input_tokens > 0


def beta() -> None:
    assert CLIENT.beta.messages.create(**ASKED, betas=["context-1m-2025-08-07"]).content[0].text


def refused(kind: str, **asked: Any) -> None:
    problem = None
    try:
        CLIENT.messages.create(**ASKED | asked)
    except anthropic.APIStatusError as error:
        problem = error
    assert problem is not None, "it was not refused"
    assert isinstance(problem.body, dict)
    assert (problem.body["type"], problem.body["error"]["type"]) == ("error", kind)
    assert problem.body["error"]["message"]
    assert problem.body["request_id"] == problem.request_id


def errors() -> None:
    refused("not_found_error", model="claude-not-served")
    refused("invalid_request_error", messages=[])
    refused("invalid_request_error", messages=[{"role": "user", "content": [{"type": "x"}]}])
    refused("invalid_request_error", max_tokens=0)


CASES: tuple[Callable[[], None], ...] = (
    text, blocks_and_cache_control, image, thinking, stream, raw_stream, cut, count_tokens, beta, errors,
)  # fmt: skip


def main() -> int:
    failed = 0
    for case in CASES:
        try:
            case()
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"failed {case.__name__}")
        else:
            print(f"ok {case.__name__}", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
