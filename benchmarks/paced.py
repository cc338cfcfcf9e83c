"""A server with known latencies, listed under /received:  python benchmarks/paced.py

Prints its address. Each model has its own pace; an image has one token per square of 32 pixels.
"""

from __future__ import annotations

import asyncio

from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Pace, Received

LONG = " ".join(f"w{number}" for number in range(64))
THOUGHT = " ".join(f"r{number}" for number in range(40))
COMPLETIONS = {
    "plain": Completion(LONG, pace=Pace(first_s=0.1, token_s=0.01)),
    "prefill": Completion(LONG, pace=Pace(first_s=0.02, prompt_token_s=0.0005, token_s=0.01)),
    "stalls": Completion(
        LONG, THOUGHT, thinks=True, pace=Pace(first_s=0.1, token_s=0.008, stalls_s={8: 0.15, 24: 0.05})
    ),
    "bundles": Completion(LONG, THOUGHT, thinks=True, pace=Pace(first_s=0.1, token_s=0.005, bundle=4)),
}


def script(request: Received) -> Completion:
    return COMPLETIONS[request.body["model"]]


async def serve() -> None:
    async with MockServer(script, models=list(COMPLETIONS), prefix_cache=True, visual_px=32, running_usage=True) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
