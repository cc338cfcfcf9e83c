"""Images from the web: only from public addresses, for every notation of an address and after redirects."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cuecard.domain.errors import BadInput
from cuecard.models.images.fetcher import Fetcher, is_public, resolved


async def fetched(url: str, **settings: Any) -> bytes:
    fetcher = Fetcher(**settings)
    try:
        return await fetcher.data(url)
    finally:
        await fetcher.aclose()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:0001::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "not an address",
        "",
        # all forms of IPv6 addresses that embed an IPv4 address
        "::127.0.0.1",
        "::10.0.0.1",
        "::169.254.169.254",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "64:ff9b:1::",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:fffe:a9fe:a9fe::",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "2a00:1450::5efe:7f00:1",
        "2a00:1450::200:5efe:169.254.169.254",
        "fe80::5efe:127.0.0.1",
        # reserved ranges
        "fec0::1",
        "fec0:0:0:ffff::1",
        "feff::1",
        "100::1",
        "2001:db8::1",
        "2001:2::1",
        "2001:20::1",
        "3fff::1",
        "5f00::1",
        "4000::1",
        "8000::1",
        "ff0e::1",
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "240.0.0.1",
        # public by number, but reachable only inside a cloud
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "64:ff9b::168.63.129.16",
        "192.80.8.124",
        "161.26.0.10",
        "166.9.0.1",
        "100.100.100.200",
    ],
)
def test_addresses_inside_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "168.63.129.17", "2606:4700::1111", "2a00:1450::5efe:808:808", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_addresses_of_the_internet_are(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a.png",
        "http://127.0.0.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://017700000001/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:7f00:1]/a.png",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_this_machine_is_not_asked_however_it_is_written(url):
    with pytest.raises(BadInput, match="not a public address"):
        await fetched(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "not the plain URL"),
        ("ftp://host/a.png", "not the plain URL"),
        ("http://user:word@host/a.png", "not the plain URL"),
        ("http:///a.png", "not the plain URL"),
        ("http://host:22/a.png", "not fetched from port 22"),
        ("http://host:nan/a.png", "not a URL"),
        ("http://name.invalid/a.png", "cannot find the host|not a public address"),
        ("http://[::1/a.png", "not a URL"),
        ("http://[v1.x]/a.png", "not a URL|cannot find the host|not a public address"),
        ("http://a..b/a.png", "not a URL"),
        (f"http://{'a' * 64}.example/a.png", "not a URL"),
        ("http://" + "ü" * 60 + ".example/a.png", "not a URL"),
        ("http://xn--\u00fc.example/a.png", "not a URL|cannot find the host"),
        ("http://host\u2100.example/a.png", "not a URL"),
        ("http://host:99999/a.png", "not a URL"),
        ("http://host:-1/a.png", "not a URL|port"),
        ("http://host\x00.example/a.png", "not a URL|cannot find the host"),
        ("http://ho st.example/a.png", "cannot find the host|not a public address|not a URL"),
        ("http://", "not the plain URL"),
        ("http:/a.png", "not the plain URL"),
    ],
)
async def test_what_is_no_plain_web_address_is_refused(url, words):
    with pytest.raises(BadInput, match=words):
        await fetched(url)


async def test_a_name_of_which_one_address_is_inside_is_refused_whole():
    async def both(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(BadInput, match="not a public address"):
        await fetched("http://example.org/a.png", resolve=both)


async def test_only_hosts_on_the_list_are_asked():
    with pytest.raises(BadInput, match=r"not fetched from evil-example\.org"):
        await fetched("http://evil-example.org/a.png", hosts=["example.org"])


# --- a local server that the fetcher treats as public -----------------------------------------------------------------


@asynccontextmanager
async def server(
    pages: Mapping[str, bytes], hosts: Sequence[str] = (), asked: list[str] | None = None
) -> AsyncIterator[tuple[Fetcher, str]]:
    """A fetcher, and the URL of a server with these pages; `asked` collects the resolved host names."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        writer.write(pages.get(path, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
        await writer.drain()
        writer.close()

    async def here(host: str, port: int) -> list[str]:
        if asked is not None:
            asked.append(host)
        return {"inside.example.org": ["10.0.0.1"]}.get(host, ["127.0.0.1"])

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        fetcher = Fetcher(
            hosts=hosts, resolve=here, is_allowed=lambda ip: ip == "127.0.0.1", ports=(port, 80), most_bytes=100_000
        )
        yield fetcher, f"http://public.example.org:{port}"
        await fetcher.aclose()


def page(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_host_and_a_path_in_other_scripts_are_asked_for_in_ascii(board):
    asked: list[str] = []
    picture = page(board.read_bytes())
    async with server({"/bild%20%C3%BC.png?gr%C3%B6%C3%9Fe=1%2B1": picture}, asked=asked) as (fetcher, root):
        port = root.rpartition(":")[2]
        found = await fetcher.data(f"HTTP://M\u00fcnchen.example:{port}/bild \u00fc.png?gr\u00f6\u00dfe=1%2B1#teil")
    assert found == board.read_bytes()
    assert asked == ["xn--mnchen-3ya.example"]


async def test_a_host_on_the_list_may_be_written_in_its_own_script(board):
    async with server({"/a.png": page(board.read_bytes())}, ["M\u00dcNCHEN.example"]) as (fetcher, root):
        port = root.rpartition(":")[2]
        assert await fetcher.data(f"http://m\u00fcnchen.example:{port}/a.png") == board.read_bytes()


@pytest.mark.parametrize(
    "location",
    ["Location: http://[::1", "Location: http://[oops]/", "Location: http://a..b/", "Location: //", "Location:", "X: y",
     "Location: http://host:port/", "Location: http://\u00fc\u00fc.invalid/", "LOCATION: file:///etc/passwd",
     "Location: javascript:alert(1)", "Location: http://user@host/"],
)  # fmt: skip
async def test_a_redirect_to_what_is_no_web_address_is_refused(location):
    async with server({"/a.png": page(b"", "302 Found", location)}) as (fetcher, root):
        with pytest.raises(BadInput):
            await fetcher.data(f"{root}/a.png")


async def test_a_redirect_in_other_letters_is_followed(board):
    places = {"/old": page(b"", "302 Found", "LOCATION: /n\u00fc.png"), "/n%C3%BC.png": page(board.read_bytes())}
    async with server(places) as (fetcher, root):
        assert await fetcher.data(f"{root}/old") == board.read_bytes()


async def test_an_image_is_fetched_and_a_redirect_followed(board):
    picture = board.read_bytes()
    async with server({"/a.png": page(picture), "/old": page(b"", "302 Found", "Location: /a.png")}) as (fetcher, root):
        assert await fetcher.data(f"{root}/old") == picture


@pytest.mark.parametrize("host", ["10.0.0.1", "[fd00::1]", "2130706434", "0x7f000002", "127.2"])
async def test_a_redirect_to_an_address_inside_is_not_followed(host: str) -> None:
    inside = page(b"", "302 Found", f"Location: http://{host}/secret")

    async def resolve(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if name == "public.example.org" else await resolved(name, port)

    async with server({"/a.png": inside}) as (_, root):
        own = {"resolve": resolve, "is_allowed": lambda ip: ip == "127.0.0.1", "ports": range(65536)}
        with pytest.raises(BadInput, match="is not a public address"):
            await fetched(f"{root}/a.png", **own)


async def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(50_000))
    async with server({"/a.png": page(packed, "200 OK", "Content-Encoding: gzip")}) as (fetcher, root):
        assert await fetcher.data(f"{root}/a.png") == packed


async def test_a_redirect_that_leads_inside_is_not_followed():
    inside = page(b"", "302 Found", "Location: http://inside.example.org/secret")
    async with server({"/a.png": inside}) as (fetcher, root):
        with pytest.raises(BadInput, match=r"inside\.example\.org is not a public address"):
            await fetcher.data(f"{root}/a.png")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page(b"", "302 Found", "Location: /a.png"), "redirects too often"),
        (page(b"x" * 100_001), "is larger than"),
        (page(b"", "500 Oops"), "answers with 500"),
        (b"nonsense\r\n\r\n", "cannot fetch"),
    ],
)
async def test_what_is_no_image_is_refused(answer, words):
    async with server({"/a.png": answer}) as (fetcher, root):
        with pytest.raises(BadInput, match=words):
            await fetcher.data(f"{root}/a.png")
