"""Streaming clients that disconnect at random:  python benchmarks/aborts.py [--clients 200] [--seconds 600]

Each request names its own ticket, which the upstream repeats in reasoning and answer, so that text of another request
is detected. Some clients disconnect after a random number of events. At the end three token counts of each request are
compared: the usage that its client received, the gateway's journal, and the tokens that the upstream sent. They are
equal if no call was cancelled; for a cancelled call, the upstream may have sent a few unread tokens. Each client has
its own API key with a monthly budget. The tokens charged to each key are compared with the journal's sum over the key's
requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from common import save
from cuecard.gateway.tables import Budget, digest, make
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Pace, Received
from gateway import free_port, resident_mib, started

TICKET = re.compile(r"t[0-9]{9}")
PACE = Pace(first_s=0.005, token_s=0.001)
STRATEGIES = ("transfer", "mutual", "short:large", "reason:small")
LEAVING, MOST_EVENTS = 0.3, 40
"""Share of the requests whose client disconnects, and the most events before it does."""
SWEEP_S = 1.0


# --- the upstream, in a process of its own ----------------------------------------------------------------------------


def answer(request: Received) -> Completion:
    [ticket] = set(TICKET.findall(json.dumps(request.body["messages"])))
    thought = f"Let me see what {ticket} is about. " + f"It is {ticket} again. " * 4
    return Completion(f"Ticket {ticket} is open, and {ticket} waits for its owner.", thought, pace=PACE)


class Ledger:
    """Tokens of prompts and of sent replies, by ticket; finished requests are dropped from the server's list."""

    def __init__(self, server: MockServer) -> None:
        self._server, self.sent = server, Counter[str]()

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self, *, all_of_them: bool = False) -> None:
        under_way = []
        for request in self._server.received:
            if not (all_of_them or request.gone.is_set() or (request.sent and request.sent[-1][1] == "done")):
                under_way.append(request)
                continue
            [ticket] = set(TICKET.findall(json.dumps(request.body["messages"])))
            self.sent[ticket] += request.prompt_tokens + sum(tokens for *_, tokens in request.sent)
        self._server.received[:] = under_way


async def serve() -> Counter[str]:
    server = MockServer(answer, models=["small", "large"], running_usage=True)
    async with server as url:
        ledger = Ledger(server)
        keeping = asyncio.create_task(ledger.keep())
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the benchmark closes it
        keeping.cancel()
        ledger.sweep(all_of_them=True)
        return ledger.sent


# --- the clients ------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the clients received."""

    usage: dict[str, int] = field(default_factory=dict)
    """Ticket -> total tokens, for requests that ended normally."""
    left: set[str] = field(default_factory=set)
    crossed: int = 0
    """The number of requests with text of another request."""
    errors: Counter[str] = field(default_factory=Counter)
    key_of: dict[str, str] = field(default_factory=dict)
    """Ticket -> API key."""


async def ask(http: aiohttp.ClientSession, url: str, number: int, key: str, rng: Random, seen: Seen) -> None:
    ticket, leaves = f"t{number:09}", rng.random() < LEAVING
    events_until_it_leaves = rng.randint(1, MOST_EVENTS) if leaves else None
    body = {
        "model": "cuecard",
        "messages": [{"role": "user", "content": f"Describe the state of ticket {ticket}."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "cuecard": {"strategy": rng.choice(STRATEGIES), "kind": "free_text"},
    }
    text, usage, events = "", None, 0
    seen.key_of[ticket] = key
    async with http.post(url, json=body, headers={"authorization": f"Bearer {key}"}) as response:
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event or response.status != 200:
                seen.errors[str(event)[:200]] += 1
                return
            text += "".join(
                piece
                for choice in event["choices"]
                for piece in (choice["delta"].get("content"), choice["delta"].get("reasoning_content"))
                if piece
            )
            usage, events = event.get("usage") or usage, events + 1
            if events == events_until_it_leaves:
                seen.left.add(ticket)
                response.close()
                break
    seen.crossed += bool(set(TICKET.findall(text)) - {ticket})
    if ticket in seen.left:
        return
    if usage is None:
        seen.errors["no usage"] += 1
    else:
        seen.usage[ticket] = usage["total_tokens"]


async def crowd(port: int, pid: int, keys: list[str], seconds: float, seed: int) -> tuple[Seen, list[float]]:
    seen, memory, until, numbers = Seen(), list[float](), time.perf_counter() + seconds, iter(range(10**9))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def go_on(key: str, rng: Random) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
            while time.perf_counter() < until:
                try:
                    await ask(http, url, next(numbers), key, rng, seen)
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    seen.errors[f"{type(error).__name__}: {error}"[:200]] += 1

    async def watch() -> None:
        while time.perf_counter() < until:
            memory.append(resident_mib(pid))
            await asyncio.sleep(min(5.0, seconds / 12))

    await asyncio.gather(watch(), *(go_on(key, Random(f"{seed} {client}")) for client, key in enumerate(keys)))
    return seen, memory


# --- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One request in the journal."""

    end: str
    tokens: int
    charged: int
    cancelled: bool
    """Whether one of its calls was cancelled."""


def journal_of(folder: Path) -> dict[str, Entry]:
    """Ticket -> its entry in the journal."""
    found = {}
    for file in folder.glob("journal*"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            [ticket] = set(TICKET.findall(entry["question"]["text"]))
            cancelled = any(call["cancelled"] for call in entry["calls"])
            found[ticket] = Entry(entry["end"], entry["usage"]["total_tokens"], entry["charged_tokens"], cancelled)
    return found


def charged(state: Path, keys: list[str]) -> dict[str, int]:
    """Key -> tokens charged this month."""
    used = json.loads(state.read_text())["used"]
    own = {key: used.get(digest(key), {}).get(Budget.TOKENS_PER_MONTH, ("", 0)) for key in keys}
    return {key: round(amount) for key, (_, amount) in own.items()}


def compared(seen: Seen, journal: dict[str, Entry], sent: dict[str, int], charges: dict[str, int]) -> dict[str, Any]:
    used = Counter[str]()
    for ticket, entry in journal.items():
        used[seen.key_of[ticket]] += entry.charged
    kinds: dict[str, list[str]] = {"whole": [], "whole, a call cancelled": [], "left by their clients": []}
    for ticket, entry in journal.items():
        is_whole = ticket in seen.usage
        kinds["left by their clients" if not is_whole else list(kinds)[entry.cancelled]].append(ticket)
    return {
        "requests": len(seen.usage) + len(seen.left),
        "left": len(seen.left),
        "errors": dict(seen.errors),
        "with_words_of_another": seen.crossed,
        "not_in_the_journal": len((seen.usage.keys() | seen.left) - journal.keys()),
        "ends": dict(Counter(entry.end for entry in journal.values())),
        "usage_unlike_the_journal": sum(journal[t].tokens != tokens for t, tokens in seen.usage.items()),
        "charges": {
            "keys": len(charges),
            "tokens_charged": sum(charges.values()),
            "tokens_in_the_journal": used.total(),
            "of_them_estimated": sum(entry.charged - entry.tokens for entry in journal.values()),
            "keys_that_differ": sum(charges[key] != used[key] for key in charges),
            "largest_difference": max((abs(charges[key] - used[key]) for key in charges), default=0),
        },
        "tokens": {
            kind: {
                "requests": len(tickets),
                "journal": sum(journal[ticket].tokens for ticket in tickets),
                "upstream": sum(sent.get(ticket, 0) for ticket in tickets),
                "requests_that_differ": sum(journal[ticket].tokens != sent.get(ticket, 0) for ticket in tickets),
                "largest_difference": max((abs(journal[t].tokens - sent.get(t, 0)) for t in tickets), default=0),
            }
            for kind, tickets in kinds.items()
        },
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        keys = [make()[0] for _ in range(args.clients)]
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        upstream = subprocess.Popen(
            [sys.executable, __file__, "--upstream", str(folder / "totals.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(upstream.kill)
        assert upstream.stdout is not None
        assert upstream.stdin is not None
        url = upstream.stdout.readline().strip()
        model = f'model = "{url}#{{role}}"\nfamily = "enable_thinking"\nprefill = true'
        (folder / "cuecard.toml").write_text(
            f'version = 1\n[server]\nstate = "{folder / "state.json"}"\n'
            f'[journal]\npath = "{folder / "journal"}"\ncontent = true\nkeep = 1000\n'
            f"[small]\n{model.format(role='small')}\n[large]\n{model.format(role='large')}\n"
            + "".join(
                f'[[keys]]\nname = "client {at}"\nsha256 = "{digest(key)}"\ntokens_per_month = 1_000_000_000\n'
                for at, key in enumerate(keys)
            )
        )
        cuecard = [str(Path(sys.executable).parent / "cuecard"), "serve", "--no-probe"]
        with ExitStack() as serving:
            command = [*cuecard, "--config", str(folder / "cuecard.toml"), "--port", str(port)]
            pid = started(serving, command, f"http://127.0.0.1:{port}/health")
            seen, memory = asyncio.run(crowd(port, pid, keys, args.seconds, args.seed))
            time.sleep(3 * SWEEP_S)
        upstream.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            upstream.wait(60)
        sent = json.loads((folder / "totals.json").read_text())
        return {
            "clients": args.clients,
            "seconds": args.seconds,
            **compared(seen, journal_of(folder), sent, charged(folder / "state.json", keys)),
            "resident_mib": {"after_a_sixth": memory[len(memory) // 6], "at_the_end": memory[-1]},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Streaming clients that leave at random.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--upstream", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.upstream is not None:
        args.upstream.write_text(json.dumps(asyncio.run(serve())))
        return
    figures = measure(args)
    save("aborts", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
