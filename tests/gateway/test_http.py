"""HTTP conformance (RFC 9110), and requests of old and new clients."""

from __future__ import annotations

import json

import httpx2
import pytest
from gateways import COUNT, DESCRIBE, disagreeing, gateway
from test_slow_clients import response_to

ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
READ = ("health", "ready", "metrics", "stats", "v1/models", "v1/models/cuecard/mutual")
WRITTEN = (
    *("v1/chat/completions", "v1/completions", "v1/responses", "v1/decision", "v1/messages"),
    "v1/messages/count_tokens",
)


def old(path: str, body: bytes = b"", method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("text", [COUNT, DESCRIBE])
async def test_a_client_of_http_1_0_gets_no_chunks(stream, text):
    body = json.dumps({"model": "cuecard", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    async with gateway(disagreeing(token_s=0.002)) as client:
        head, _, result = (await response_to(client, old("/v1/chat/completions", body))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    if stream:
        lines = [line for line in result.split(b"\n\n") if line]
        assert all(line.startswith(b"data: ") for line in lines)
        assert lines[-1] == b"data: [DONE]"
    else:
        assert json.loads(result)["choices"][0]["message"]["content"] == "3"


@pytest.mark.parametrize("path", ["/health", "/dashboard", "/dashboard/page.js", "/metrics", "/nowhere"])
async def test_other_answers_to_http_1_0_are_whole_too(path):
    async with gateway() as client:
        head, _, result = (await response_to(client, old(path, method="GET"))).partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    assert int(length.split(b":")[1]) == len(result) > 0


async def test_head_is_get_without_a_body():
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain:
        for path in (*READ, "dashboard", "dashboard/page.css"):
            there, head = await plain.get(path), await plain.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == there.headers["content-type"]


async def test_a_slash_at_the_end_changes_nothing():
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain:
        for path in READ:
            answer = await plain.get(f"{path}/")
            assert answer.status_code == 200
            if path.startswith("v1"):
                assert answer.json() == (await plain.get(path)).json()
        for path in WRITTEN:
            assert (await plain.post(f"{path}/", json=ASKED | {"input": COUNT})).status_code in (200, 400)
        assert (await plain.post("v1/chat/completions/", json=ASKED)).status_code == 200
        moved = await plain.get("dashboard/")
        assert moved.is_redirect
        assert moved.next_request.url.path == "/dashboard"
        assert "<h1>Cuecard" in (await plain.get("dashboard/", follow_redirects=True)).text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[("GET", path, {"POST"}) for path in WRITTEN],
        *[("OPTIONS", path, {"POST"}) for path in WRITTEN],
        *[("POST", path, {"GET", "HEAD"}) for path in (*READ, "dashboard", "dashboard/page.css", "v1/models/")],
        ("DELETE", "v1/models/cuecard", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_refused_with_the_right_one(method, path, allowed):
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain:
        answer = await plain.request(method, path)
    assert answer.status_code == 405
    assert {each.strip() for each in answer.headers["allow"].split(",")} == allowed
    assert answer.headers["allow"] in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("chat/completions", "did you mean /v1/chat/completions?"),
        ("v1/v1/messages", "did you mean /v1/messages?"),
        ("v1/chat/completions/chat/completions/", "did you mean /v1/chat/completions?"),
        ("v1/embeddings", "the API is under /v1"),
        ("", "the page is /dashboard"),
    ],
)
async def test_an_error_about_an_unknown_path_names_the_right_one(path, hint):
    async with gateway() as client, httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/")) as plain:
        answer = await plain.post(path)
    assert answer.status_code == 404
    assert hint in answer.json()["error"]["message"]
