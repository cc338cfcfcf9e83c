"""Compare `cuecard profile`, `vllm bench serve` and guidellm on the same server and load.

    VLLM=.servers/vllm/bin/vllm GUIDELLM=guidellm python benchmarks/server_profile.py mock|vllm

`mock` is the server of `paced.py`, which also reports its true latencies; `vllm` is the large model of the embedded
pair on a real vLLM (tests/servers/install.sh vllm) with one core. `vllm bench serve` needs pandas in its environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import cuecard
from common import RESULTS, save
from cuecard.latency.server_profile import WORDS, ServerProfile, profile
from cuecard.latency.server_requests import PERCENTILES, Spread, served
from cuecard.models.spec import Served
from server_truth import paced, reported, truth, undisturbed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "servers"))
VLLM, GUIDELLM = os.environ.get("VLLM", ".servers/vllm/bin/vllm"), os.environ.get("GUIDELLM", "guidellm")
LARGE = Path(cuecard.__file__).parent / "weights" / "demo-large"
PROMPT_WORDS = 48
TOOLS: Mapping[str, Mapping[str, str]] = {
    "vllm": {"TTFT, vLLM": "ttft", "TPOT, vLLM": "tpot", "ITL, vLLM": "itl", "E2EL, vLLM": "e2el"},
    "guidellm": {
        "TTFT": "time_to_first_token_ms",
        "TTFO": "time_to_first_output_token_ms",
        "TPOT, guidellm": "time_per_output_token_ms",
        "ITL, guidellm": "inter_token_latency_ms",
        "E2EL": "request_latency",
    },
}
"""Tool -> our name of each metric -> the tool's name."""


@dataclass(frozen=True)
class Load:
    """The load that each tool generates. `rate`: requests per second."""

    model: str
    tokens: int
    requests: int
    at_once: int | None = None
    rate: float | None = None


MOCK = {
    "one at a time": Load("plain", 32, 24, at_once=1),
    "4 at once, bundles": Load("bundles", 60, 48, at_once=4),
    "20 a second": Load("plain", 32, 80, rate=20.0),
}
REAL = {
    "one at a time": Load("demo-large", 64, 24, at_once=1),
    "4 at once": Load("demo-large", 64, 48, at_once=4),
}
Shown = dict[str, dict[str, float]]
"""Metric -> mean and percentiles, in seconds."""


def shown(spread: Spread) -> dict[str, float]:
    return {"mean": spread.mean, **{f"p{p}": value for p, value in spread.percentiles.items()}}


def ours(url: str, load: Load, folder: Path) -> Shown:
    wish = ServerProfile(
        [Served(url, load.model)], (load.tokens,), (None,), (PROMPT_WORDS,), rate=(load.rate,),
        concurrency=(load.at_once,), requests=load.requests, repeats=1, chance=Random(2),
    )  # fmt: skip
    asyncio.run(profile(wish, folder / "profile", {"date": ""}, lambda progress: None))
    return {name: shown(spread) for name, spread in served(folder / "profile")[0].metrics.items()}


def vllm_bench(url: str, load: Load, folder: Path) -> Shown:
    options: dict[str, object] = {
        "backend": "openai-chat", "base-url": url.removesuffix("/v1"), "endpoint": "/v1/chat/completions",
        "model": load.model, "tokenizer": LARGE, "dataset-name": "custom", "dataset-path": folder / "prompts.jsonl",
        "custom-output-len": load.tokens, "num-prompts": load.requests, "temperature": 0,
        "percentile-metrics": "ttft,tpot,itl,e2el", "metric-percentiles": "50,90,99", "result-dir": folder,
        "result-filename": "vllm.json",
    }  # fmt: skip
    options |= {"request-rate": load.rate} if load.rate else {"max-concurrency": load.at_once}
    flags = ["--skip-chat-template", "--ignore-eos", "--save-result", "--disable-tqdm"]
    quiet([VLLM, "bench", "serve", *flags, *(f"--{name}={value}" for name, value in options.items())], folder)
    found = json.loads((folder / "vllm.json").read_text())
    return {
        name: {each: found[f"{each}_{own}_ms"] / 1000 for each in ("mean", *(f"p{p}" for p in PERCENTILES))}
        for name, own in TOOLS["vllm"].items()
    }


def guidellm(url: str, load: Load, folder: Path) -> Shown:
    how = f"kind=poisson,rate={load.rate}" if load.rate else f"kind=concurrent,streams={load.at_once}"
    options = {
        "backend": f"kind=openai_http,target={url.removesuffix('/v1')},model={load.model}",
        "profile": how,
        "constraint": f"kind=max_requests,count={load.requests}",
        "data": f"kind=json_file,path={folder / 'prompts.jsonl'}",
        "output": f"kind=json,path={folder / 'guidellm.json'}",
    }
    quiet([GUIDELLM, "run", "--disable-console", *(f"--{name}={value}" for name, value in options.items())], folder)
    found = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    made: Shown = {}
    for name, own in TOOLS["guidellm"].items():
        metrics, unit = found[own]["successful"], 1000 if own.endswith("_ms") else 1
        values = {"mean": metrics["mean"], **{f"p{p}": metrics["percentiles"][f"p{p}"] for p in PERCENTILES}}
        made[name] = {each: value / unit for each, value in values.items()}
    return made


def quiet(command: Sequence[object], folder: Path) -> None:
    """Run another tool without its output. Raises SystemExit with the output if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, timeout=180)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def beside(url: str, load: Load, *, knows: bool) -> dict[str, Any]:
    """Tool -> `reported`, its metrics; and `did`, those from the server's own record, if the server `knows` them."""
    tools: Mapping[str, Callable[[str, Load, Path], Shown]] = {
        "cuecard": ours,
        "vllm": vllm_bench,
        "guidellm": guidellm,
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        prompts(Path(folder) / "prompts.jsonl", load)
        for name, tool in tools.items():
            found[name] = {"reported": tool(url, load, Path(folder))}
            if knows:
                found[name]["did"] = did(reported(url, load.model)[-load.requests :])
            print(name, {metric: round(1000 * each["p50"], 2) for metric, each in found[name]["reported"].items()})
    return found


def did(requests: Sequence[Mapping[str, Any]]) -> Shown:
    values: dict[str, list[float]] = {}
    for request in requests:
        for name, own in truth(request).items():
            values.setdefault(name, []).extend(own)
    return {name: shown(Spread.of(own)) for name, own in values.items()}


def prompts(path: Path, load: Load) -> None:
    """Write one prompt per request, for the other tools; guidellm also takes the output's length from this file."""
    chance = Random(3)
    lines = ({"prompt": " ".join(chance.choices(WORDS, k=PROMPT_WORDS)), "output_tokens_count": load.tokens}
             for _ in range(load.requests))  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def real() -> Iterator[str]:
    """The URL of a vLLM server on one core, once it is healthy."""
    from programs import free_port, running

    port = free_port()
    flags = f"--host 127.0.0.1 --enforce-eager --max-num-seqs 16 --max-model-len 2048 --port {port} --dtype float32"
    names = ["--served-model-name", "demo-large", "--chat-template-content-format", "openai"]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    with tempfile.TemporaryDirectory() as folder:
        command = [VLLM, "serve", LARGE, *flags.split(), *names]
        with running(command, f"http://127.0.0.1:{port}/health", Path(folder) / "log", 240, **env):
            yield f"http://127.0.0.1:{port}/v1"


def versions() -> dict[str, str]:
    python = Path(VLLM).parent / "python"
    ask = [python, "-c", "from importlib.metadata import version; print(version('vllm'))"]
    guide = subprocess.run([GUIDELLM, "--version"], capture_output=True, text=True, check=True).stdout
    engine = subprocess.run([*map(str, ask)], capture_output=True, text=True, check=True).stdout
    return {"vllm": engine.strip(), "guidellm": guide.split()[-1]}


def main(which: str) -> None:
    opened, loads = (paced, MOCK) if which == "mock" else (real, REAL)
    priority = undisturbed(real_time=which == "mock")  # a real server computes: real time would block the machine
    with opened() as url:
        loaded = {name: beside(url, load, knows=which == "mock") for name, load in loads.items()}
    figures = {
        "priority": priority,
        "versions": versions(),
        "loads": {name: {**vars(loads[name]), "tools": found} for name, found in loaded.items()},
    }
    print(save(f"server_profile_{which}", figures).relative_to(RESULTS.parent.parent))


if __name__ == "__main__":
    if sys.argv[1:] not in (["mock"], ["vllm"]):
        sys.exit(__doc__)
    VLLM, GUIDELLM = (str(Path(tool).absolute()) if "/" in tool else tool for tool in (VLLM, GUIDELLM))
    main(sys.argv[1])
