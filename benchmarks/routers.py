"""Routers before four mock replicas:  python benchmarks/routers.py [NAME …], after tests/servers/install.sh

The recipes of deploy/routers run as they are. A pair answers 200 questions by `mutual`; then 2,000 questions are asked
of the large model once, and once more after the replica with the most questions has been stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))

from collections import Counter  # noqa: E402

from routers import ROUTERS, ask_model, ask_pair, computed_twice, fleet, hottest, on_one_replica  # noqa: E402


async def measure(name: str, folder: Path, pairs: int, questions: int, **env: str) -> dict[str, Any]:
    """Where the calls about each question go, before and after a replica stops."""
    async with fleet(name, folder, **env) as behind:
        await ask_pair(behind, pairs)
        calls = sum(len(replica.received) for replica in behind.replicas)
        together, twice = on_one_replica(behind), computed_twice(behind)
        behind.forget()
        failed = await ask_model(behind, questions)
        before = behind.homes()
        behind.forget()
        most, _ = Counter(before.values()).most_common(1)[0]
        await behind.replicas[most].__aexit__(None, None, None)
        failed_then = await ask_model(behind, questions)
        after = behind.homes()
        moved = sum(after[line] != home for line, home in before.items() if line in after)
        return {
            "calls": calls,
            "on_one_replica": together,
            "computed_twice": twice,
            "hottest": hottest(before, len(behind.replicas)),
            "failed": failed,
            "moved": moved / len(after) if after else None,
            "failed_after_stop": failed_then,
            "hottest_after_stop": hottest(after, len(behind.replicas) - 1) if after else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Routers of other projects before four mock replicas.")
    parser.add_argument("names", nargs="*", default=list(ROUTERS), help=f"of {', '.join(ROUTERS)}")
    parser.add_argument("--pairs", type=int, default=200, help="questions for the pair")
    parser.add_argument("--questions", type=int, default=2000, help="questions for one model")
    parser.add_argument("--policy", help="of vllm-router or sglang-router, instead of the recipe's")
    args = parser.parse_args()
    env = {"POLICY": args.policy} if args.policy else {}
    found = {}
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = asyncio.run(measure(name, Path(folder), args.pairs, args.questions, **env))
        print(name, found[name], flush=True)
    if not args.policy:
        save("routers", found)


if __name__ == "__main__":
    main()
