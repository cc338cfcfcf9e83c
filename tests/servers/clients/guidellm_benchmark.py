# /// script
# dependencies = ["guidellm[vision]==0.8.1", "torch==2.13.0"]
# ///
"""GuideLLM's benchmarks: a few requests with synthetic prompts are answered, with token counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import KEY, MODEL, URL, case, run

GUIDELLM = Path(sys.executable).with_name("guidellm")
TOKENIZER = Path(__file__).parents[3] / "src" / "cuecard" / "weights" / "demo-large"
"""Tokenizer for synthetic prompts; without it, GuideLLM downloads the model's."""
TEXT = "kind=synthetic_text,prompt_tokens=24,output_tokens=8"
SYNCHRONOUS, CONCURRENT, SWEEP = "kind=synchronous", "kind=concurrent,streams=2", "kind=sweep,sweep_size=2"
REQUESTS = 2


def benchmark(profile: str = SYNCHRONOUS, data: tuple[str, ...] = (TEXT,), **backend: Any) -> list[dict[str, Any]]:
    """The successful requests of a benchmark. Raises RuntimeError if a request or the command fails."""
    given = {"target": URL.removesuffix("/v1"), "model": MODEL, "api_key": KEY} | backend
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        single = {
            "backend": ",".join(["kind=openai_http", *(f"{name}={value}" for name, value in given.items())]),
            "profile": profile,
            "tokenizer": f"kind=hf_auto,model={TOKENIZER}",
            "constraint": f"kind=max_requests,count={REQUESTS}",
            "output": f"kind=json,path={report}",
        }
        options = [*single.items(), *(("data", source) for source in data)]
        done = subprocess.run(
            [GUIDELLM, "run", "--disable-console", *(f"--{name}={value}" for name, value in options)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        runs = json.loads(report.read_text())["benchmarks"]
    if errors := [request["info"]["error"] for run in runs for request in run["requests"]["errored"]]:
        raise RuntimeError("\n".join(map(str, errors)))
    answered = [request for run in runs for request in run["requests"]["successful"]]
    assert len(answered) >= REQUESTS - 1  # the last request may be cancelled
    return answered


def check(answered: list[dict[str, Any]]) -> None:
    for request in answered:
        assert request["output"]
        assert request["input_metrics"]["text_tokens"] > 0
        assert request["output_metrics"]["text_tokens"] > 0


@case()
def chat_completions() -> None:
    check(benchmark())


@case()
def chat_completions_whole() -> None:
    check(benchmark(stream=False))


@case()
def completions() -> None:
    check(benchmark(request_format="/v1/completions"))


@case()
def completions_whole() -> None:
    check(benchmark(request_format="/v1/completions", stream=False))


@case()
def responses() -> None:
    check(benchmark(request_format="/v1/responses"))


@case()
def several_at_once() -> None:
    check(benchmark(profile=CONCURRENT))


@case()
def sweep() -> None:
    """First sequential requests, then as many concurrent ones as possible."""
    check(benchmark(profile=SWEEP))


@case(needs="images")
def images() -> None:
    check(benchmark(data=(TEXT, "kind=synthetic_image,width=64,height=64")))


run()
