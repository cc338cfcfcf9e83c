"""TensorZero's embedded gateway in front of the instant upstream, for benchmarks/gateway.py:  python … PORT

Run with the Python of an environment that has `tensorzero`. Reads a number per line, makes that many requests one after
the other, and prints their seconds as a JSON list.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("OPENAI_API_KEY", "none")

from tensorzero import AsyncTensorZeroGateway

CONFIG = """\
[gateway]
observability.enabled = false
[models.instant]
routing = ["up"]
[models.instant.providers.up]
type = "openai"
model_name = "instant"
api_base = "http://127.0.0.1:{port}/v1"
api_key_location = "none"
"""
QUESTION = "Which number comes after six? Answer with a number."


async def main(port: int) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(CONFIG.format(port=port))
        file.flush()
        gateway = await AsyncTensorZeroGateway.build_embedded(config_file=file.name)
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    while line := await asyncio.to_thread(sys.stdin.readline):
        taken = []
        for _ in range(int(line)):
            began = time.perf_counter()
            await gateway.inference(model_name="instant", input=asked)
            taken.append(time.perf_counter() - began)
        print(json.dumps(taken), flush=True)
    os._exit(0)  # the gateway's threads print errors at a normal exit


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
