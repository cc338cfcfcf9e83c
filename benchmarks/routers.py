"""Routers before four mock replicas:  python benchmarks/routers.py [NAME …], after tests/servers/install.sh

The recipes of deploy/routers run as they are. A pair answers 200 questions by `mutual`; then 2,000 questions are asked
of the large model once, and once more after the replica with the most questions has been stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))

from router_fleet import ROUTERS, ask_pair, computed_twice, fleet, on_one_replica, spread


async def measure(name: str, folder: Path, pairs: int, questions: int, **env: str) -> dict[str, Any]:
    """Where the calls about each question go, before and after a replica stops."""
    async with fleet(name, folder, **env) as behind:
        await ask_pair(behind, pairs)
        calls = sum(len(replica.received) for replica in behind.replicas)
        together = {"calls": calls, "on_one_replica": on_one_replica(behind), "computed_twice": computed_twice(behind)}
        return together | asdict(await spread(behind, questions))


def main() -> None:
    parser = argparse.ArgumentParser(description="Routers of other projects before four mock replicas.")
    parser.add_argument("names", nargs="*", default=list(ROUTERS), help=f"of {', '.join(ROUTERS)}")
    parser.add_argument("--pairs", type=int, default=200, help="questions for the pair")
    parser.add_argument("--questions", type=int, default=2000, help="questions for one model")
    parser.add_argument("--policy", help="of vllm-router or sglang-router, instead of the recipe's")
    args = parser.parse_args()
    env = {"POLICY": args.policy} if args.policy else {}
    found = {}
    print("| router | calls | on one replica | computed twice | hottest | moved | hottest then | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            row = found[name] = asyncio.run(measure(name, Path(folder), args.pairs, args.questions, **env))
        print(
            f"| {name} | {row['calls']} | {row['on_one_replica']:.1%} | {row['computed_twice']} | {row['hottest']:.3f} "
            f"| {row['moved']:.1%} | {row['hottest_after_stop']:.3f} | {row['failed']} |",
            flush=True,
        )
    if not args.policy:
        save("routers", found)


if __name__ == "__main__":
    main()
