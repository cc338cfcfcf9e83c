"""Overhead of the gateway:  python benchmarks/gateway.py [--litellm PATH] [--tensorzero PYTHON] [--soak SECONDS]

The upstream answers at once, so all time is overhead. "Direct" is a client that calls both models itself: two calls in
parallel, with the same small HTTP client. Latency is measured with one request at a time, the ways in turn; throughput
with 16 clients at once, per second and per CPU second of the server process. Then many clients stream for a while:
errors, memory after a sixth of the time and at the end, and the sum of all usages against the upstream's own count.
LiteLLM's proxy and TensorZero's embedded gateway (one call, no pair) are measured in the same run if they are given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from common import save

HERE = Path(__file__).parent
QUESTION = "Which number comes after six? Answer with a number."
SINGLES, ROUNDS, WARM = 2000, 10, 200
AT_ONCE = 16


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Client:
    """One keep-alive connection: sends a fixed request, returns the body of the response."""

    def __init__(self, port: int, model: str, **more: Any) -> None:
        asked = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **more}
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer sk-bench\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._port, self._request = port, head.encode() + body
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> bytes:
        if self._open is None or self._open[0].at_eof():  # servers close idle connections after a while
            self._open = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._open
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(head.decode() + (await reader.read(1000)).decode())
        if b"content-length:" in head:
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            return await reader.readexactly(length)
        body = b""
        while (size := int(await reader.readline(), 16)) > 0:
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()


def started(stack: AsyncExitStack | ExitStack, command: list[str], url: str, seconds: float = 90, **env: str) -> int:
    """Start a server process; returns its pid once `url` answers. Raises SystemExit if it does not start."""
    log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is the stack that closes it
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | env)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    for _ in range(int(seconds * 10)):
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return process.pid
        except OSError:
            time.sleep(0.1)
        if process.poll() is not None:
            break
    log.seek(0)
    raise SystemExit(f"{command[0]} did not start:\n{log.read().decode()[-2000:]}")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


Block = Callable[[int], Awaitable[list[float]]]
"""Number of requests, made one after the other -> seconds of each."""


def block(ask: Callable[[], Awaitable[Any]]) -> Block:
    async def timed(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            await ask()
            taken.append(time.perf_counter() - began)
        return taken

    return timed


async def embedded(stack: AsyncExitStack, python: str, port: int) -> Block:
    """Requests to TensorZero's gateway, embedded in the process of the client."""
    child = await asyncio.create_subprocess_exec(
        python, HERE / "tensorzero_embedded.py", str(port), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=2**20
    )
    stack.callback(child.kill)
    assert child.stdin is not None
    assert child.stdout is not None
    requests, lines = child.stdin, child.stdout

    async def timed(count: int) -> list[float]:
        requests.write(f"{count}\n".encode())
        while line := await lines.readline():
            if line.startswith(b"["):
                return json.loads(line)
        raise SystemExit("TensorZero's gateway ended")

    return timed


async def latencies(ways: dict[str, Block]) -> dict[str, list[float]]:
    """Way -> seconds of single requests, the ways in turn, in reverse order every second round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, timed in list(ways.items())[:: 1 if number % 2 else -1]:
            await timed(WARM // ROUNDS)
            taken[name] += await timed(SINGLES // ROUNDS)
    return taken


async def throughput(clients: list[Client], pid: int, seconds: float) -> dict[str, float]:
    """Requests per second, and per CPU second of the server."""
    asked, cpu, until = 0, cpu_s(pid), time.perf_counter() + seconds

    async def go_on(client: Client) -> None:
        nonlocal asked
        while time.perf_counter() < until:
            await client.ask()
            asked += 1

    began = time.perf_counter()
    await asyncio.gather(*map(go_on, clients))
    spent = cpu_s(pid) - cpu
    return {"per_s": asked / (time.perf_counter() - began), "per_cpu_s": asked / spent if spent else 0.0}


async def crowd(port: int, upstream: int, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Stream with many clients for `seconds`: requests, errors, tokens, and memory in MiB."""

    def counted() -> dict[str, int]:
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{upstream}/count"))

    more = {"stream": True, "stream_options": {"include_usage": True}}
    people = [Client(port, "cuecard", **more) for _ in range(clients)]
    before, tokens, answers, errors, until = counted(), 0, 0, 0, time.perf_counter() + seconds
    memory: list[float] = []

    async def go_on(client: Client) -> None:
        nonlocal tokens, answers, errors
        while time.perf_counter() < until:
            try:
                events = (await client.ask()).split(b"\n\n")
                last = next(json.loads(e[6:]) for e in reversed(events) if b'"usage":{' in e)
            except (OSError, RuntimeError, StopIteration, ValueError):
                errors += 1
                return
            tokens, answers = tokens + last["usage"]["total_tokens"], answers + 1

    async def watch() -> None:
        while time.perf_counter() < until:
            memory.append(resident_mib(pid))
            await asyncio.sleep(min(5.0, seconds / 12))

    await asyncio.gather(watch(), *map(go_on, people))
    for person in people:
        person.close()
    after = counted()
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": answers,
        "errors": errors,
        "usage_tokens": tokens,
        "upstream_tokens": after["tokens"] - before["tokens"],
        "resident_mib": {"after_a_sixth": memory[len(memory) // 6], "at_the_end": memory[-1]},
    }


def summary(taken: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken, n=100)
    return {"p50_ms": 1000 * cuts[49], "p95_ms": 1000 * cuts[94], "p99_ms": 1000 * cuts[98]}


LITELLM = """\
model_list:
  - model_name: cuecard
    litellm_params: {{model: openai/instant, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
"""


LITELLM_ENV = {"NO_DOCS": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
"""No API keys, as for our gateway."""


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        up, ours, theirs = free_port(), free_port(), free_port()
        started(stack, [sys.executable, str(HERE / "instant.py"), str(up)], f"http://127.0.0.1:{up}/count")
        one = f'model = "http://127.0.0.1:{up}/v1#instant"\nfamily = "plain"\nprefix_cache = false'
        (folder / "cuecard.toml").write_text(
            f'version = 1\n[pair]\naccept = "agree"\n[small]\n{one}\n[large]\n{one.replace("#instant", "#other")}\n'
        )
        serve = [
            str(Path(sys.executable).parent / "cuecard"),
            "serve",
            "--no-probe",
            "--config",
            str(folder / "cuecard.toml"),
        ]
        pids = {"gateway": started(stack, [*serve, "--port", str(ours)], f"http://127.0.0.1:{ours}/health")}
        first, second, pair = Client(up, "instant"), Client(up, "instant"), Client(ours, "cuecard")
        alone = Client(ours, "instant")

        async def both() -> None:
            await asyncio.gather(first.ask(), second.ask())

        ways = {
            "one call, direct": block(first.ask),
            "one call, gateway": block(alone.ask),
            "two calls, direct": block(both),
            "mutual, gateway": block(pair.ask),
        }
        asked = {"gateway, mutual": (ours, "cuecard"), "gateway, one call": (ours, "instant")}
        if args.litellm:
            (folder / "litellm.yaml").write_text(LITELLM.format(port=up))
            command = [args.litellm, "--config", str(folder / "litellm.yaml"), "--port", str(theirs)]
            pids["litellm"] = started(stack, command, f"http://127.0.0.1:{theirs}/health/liveliness", **LITELLM_ENV)
            ways["one call, LiteLLM"] = block(Client(theirs, "cuecard").ask)
            asked["LiteLLM, one call"] = theirs, "cuecard"
        if args.tensorzero:
            ways["one call, TensorZero embedded"] = await embedded(stack, args.tensorzero, up)
        taken = await latencies(ways)
        rates = {}
        for name, (port, model) in asked.items():
            crowd_of = [Client(port, model) for _ in range(AT_ONCE)]
            rates[name] = await throughput(crowd_of, pids["gateway" if port == ours else "litellm"], args.seconds / 4)
        many = await crowd(ours, up, pids["gateway"], args.clients, args.soak or args.seconds)
        if args.soak:
            return {"soak": many}
        latency = {name: summary(seconds) for name, seconds in taken.items()}
        added = {
            name: {p: latency[through][p] - latency[direct][p] for p in ("p50_ms", "p95_ms", "p99_ms")}
            for name, through, direct in (
                ("mutual", "mutual, gateway", "two calls, direct"),
                ("one call", "one call, gateway", "one call, direct"),
                ("LiteLLM, one call", "one call, LiteLLM", "one call, direct"),
                ("TensorZero embedded, one call", "one call, TensorZero embedded", "one call, direct"),
            )
            if through in latency
        }
        return {"latency": latency, "added": added, "throughput": rates, "streaming": many}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway adds.")
    parser.add_argument("--litellm", help="the litellm program, from an environment of its own with litellm[proxy]")
    parser.add_argument("--tensorzero", help="the Python of an environment of its own with tensorzero")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--soak", type=float, default=0.0, help="stream for so many seconds, and only report that")
    args = parser.parse_args()
    figures = asyncio.run(measure(args))
    save("soak" if args.soak else "gateway", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
