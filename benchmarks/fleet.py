"""Two gateway processes against one:  python benchmarks/fleet.py [--seconds S] [--redis PROGRAM]

The load generator, each gateway and the mock server of each model are processes of their own: two gateways need five
cores, and the load generator takes more of one than a gateway does per request. With fewer cores the ratio says more
about the machine than about the gateways, so the figures come with the number of cores. With --redis, the gateways
share the limits of a key with a budget on a server of their own, which adds three calls of the server to each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import save
from cuecard.gateway.tables import digest
from gateway import AT_ONCE, HERE, Client, cpu_s, free_port, started

KEY = "sk-bench"
"""The key that `Client` sends."""
NEEDED_CORES = 5
ROUNDS = 3


def configuration(mocks: list[int], redis: int | None) -> str:
    """The cuecard.toml of all gateways."""
    ends = [f'model = "http://127.0.0.1:{port}/v1#{port}"\nfamily = "plain"\nprefix_cache = false' for port in mocks]
    pair = f'version = 1\n[pair]\naccept = "agree"\n[small]\n{ends[0]}\n[large]\n{ends[1]}\n'
    if redis is None:
        return pair
    limits = f'[[keys]]\nname = "bench"\nsha256 = "{digest(KEY)}"\ntokens_per_day = 1000000000000\n'
    return f'{pair}{limits}[state]\nurl = "redis://127.0.0.1:{redis}/0"\n'


async def throughput(ports: list[int], pids: list[int], seconds: float) -> dict[str, float]:
    """Requests per second over all gateways, and per CPU second of them."""
    clients = [Client(ports[index % len(ports)], "cuecard") for index in range(AT_ONCE)]
    answered, before, until = 0, sum(map(cpu_s, pids)), time.perf_counter() + seconds

    async def ask(client: Client) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            await client.ask()
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*map(ask, clients))
    spent = sum(map(cpu_s, pids)) - before
    for client in clients:
        client.close()
    return {"per_s": answered / (time.perf_counter() - began), "per_cpu_s": answered / spent if spent else 0.0}


def redis_server(stack: ExitStack, program: str) -> int:
    """Start a Redis server; returns its port."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    return port


def measure(seconds: float, redis: str | None) -> dict[str, Any]:
    """Throughput of one gateway and of two, in turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shared = redis_server(stack, redis) if redis else None
        mocks = [free_port(), free_port()]
        for port in mocks:
            started(stack, [sys.executable, str(HERE / "instant.py"), str(port)], f"http://127.0.0.1:{port}/count")
        (folder / "cuecard.toml").write_text(configuration(mocks, shared))
        program = str(Path(sys.executable).parent / "cuecard")
        ports = [free_port(), free_port()]
        pids = []
        for port in ports:
            serve = [program, "serve", "--no-probe", "--config", str(folder / "cuecard.toml"), "--port", str(port)]
            pids.append(started(stack, serve, f"http://127.0.0.1:{port}/health"))
        rates: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
        for number in range(ROUNDS + 1):
            for name, count in list({"one": 1, "two": 2}.items())[:: 1 if number % 2 else -1]:
                rate = asyncio.run(throughput(ports[:count], pids[:count], seconds if number else 1.0))
                if number:  # the first round warms up
                    rates[name].append(rate)
    best = {name: max(rate["per_s"] for rate in found) for name, found in rates.items()}
    cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "enough_cores": cores >= NEEDED_CORES,
        "shared_state": redis is not None,
        "rates": rates,
        "ratio": best["two"] / best["one"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of two gateway processes against one.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of three rounds")
    parser.add_argument("--redis", help="redis-server: share the limits of a key on such a server")
    args = parser.parse_args()
    figures = measure(args.seconds, args.redis)
    save("fleet_redis" if args.redis else "fleet", figures)
    print(json.dumps(figures, indent=2))
    print(f"two processes answer {figures['ratio']:.2f} times as much as one, on {figures['cores']} cores", end="")
    print("" if figures["enough_cores"] else f": too few to tell, {NEEDED_CORES} are needed")


if __name__ == "__main__":
    main()
