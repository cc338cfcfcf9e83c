"""A minimal upstream that answers at once:  python benchmarks/instant.py PORT

GET /count returns the number of requests and the tokens reported in their usages.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import uvloop

PROMPT_TOKENS, COMPLETION_TOKENS = 40, 1
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}
BASE = {"id": "chatcmpl-1", "created": 1, "model": "instant"}


def chunk(delta: dict, finish: str | None = None, usage: dict | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if usage is None else []
    chunk = BASE | {"object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return f"data: {json.dumps(chunk)}\n\n".encode()


STREAM = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"content": "7"})
    + chunk({}, "stop")
    + chunk({}, usage=USAGE)
    + b"data: [DONE]\n\n"
)
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "7"}, "finish_reason": "stop"}
WHOLE = json.dumps(BASE | {"object": "chat.completion", "choices": [MESSAGE], "usage": USAGE}).encode()


def response(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


STREAMED, ANSWERED = response("text/event-stream", STREAM), response("application/json", WHOLE)


class Instant(asyncio.Protocol):
    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + length:
                return
            body, self.data = self.data[end + 4 : end + 4 + length], self.data[end + 4 + length :]
            if head.startswith(b"get"):
                count = {"asked": Instant.asked, "tokens": Instant.asked * USAGE["total_tokens"]}
                self.transport.write(response("application/json", json.dumps(count).encode()))
                continue
            Instant.asked += 1
            self.transport.write(STREAMED if b'"stream":true' in body.replace(b" ", b"") else ANSWERED)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(main(parser.parse_args().port))
