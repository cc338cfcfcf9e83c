"""A double of vLLM's AsyncLLM: the next token depends on all before it. Like vLLM, it keeps its caller's lists."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cuecard.models.local.embedded_network import PlainTokenizer
from cuecard.models.spec import Embedded


class EngineDeadError(Exception):
    """As vllm.v1.engine.exceptions.EngineDeadError."""


class VLLMClientError(Exception):
    """As vllm.exceptions.VLLMClientError."""


class Values(SimpleNamespace):
    """SamplingParams, StructuredOutputsParams or StreamingInput: what was given, by name."""

    def __init__(self, *values: Any, **named: Any) -> None:
        placed = zip(("prompt", "sampling_params"), values, strict=False)
        super().__init__(**{"prompt_logprobs": None, "structured_outputs": None, **dict(placed), **named})


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put what this package imports of vLLM in its place."""
    modules = {
        "vllm": {"__version__": "0.32.0", "SamplingParams": Values},
        "vllm.sampling_params": {
            "RequestOutputKind": SimpleNamespace(DELTA=1),
            "StructuredOutputsParams": Values,
        },
        "vllm.engine": {},
        "vllm.engine.protocol": {"StreamingInput": Values},
        "vllm.exceptions": {"VLLMClientError": VLLMClientError},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)


class EngineDouble:
    """Generates words of the demo vocabulary. `pieces`: request, tokens of the prompt so far, tokens to generate."""

    def __init__(self, most: int = 2048, **config: Any) -> None:
        self.errored, self.running, self.pieces = False, set[str](), list[tuple[str, int, int]]()
        self.params: list[Any] = []
        self.ends = True
        """Whether a turn may end before its limit."""
        self.model_config = SimpleNamespace(is_multimodal_model=False, max_model_len=most, hf_config=SimpleNamespace())
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(enable_prefix_caching=True, num_gpu_blocks=64, block_size=128),
            scheduler_config=SimpleNamespace(max_num_seqs=8),
            speculative_config=config.get("speculative_config"),
        )
        self.renderer = self
        self._tokenizer = PlainTokenizer(Embedded("demo-large").folder)
        self._words = self._tokenizer("7 red digits and 3 in the cell.", add_special_tokens=False).input_ids

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def render_cmpl_async(self, prompts: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"type": "token", "prompt_token_ids": each["prompt_token_ids"]} for each in prompts]

    async def generate(self, given: Any, params: Any, request: str) -> AsyncGenerator[Any]:
        self.running.add(request)
        try:
            if isinstance(given, AsyncGenerator):
                ids: list[int] = []
                async for piece in given:
                    async for output in self._computed(request, piece.prompt, piece.sampling_params, ids):
                        yield output
            else:
                async for output in self._computed(request, given, params, []):
                    yield output
        finally:
            self.running.discard(request)

    async def reset_prefix_cache(self) -> bool:
        return not self.running

    reset_mm_cache = reset_encoder_cache = reset_prefix_cache

    async def _computed(self, request: str, given: Any, params: Any, before: list[int]) -> AsyncGenerator[Any]:
        before.extend(given["prompt_token_ids"])
        given["prompt_token_ids"].append(-1)  # as vLLM appends later pieces to the list that it was given
        ids = list(before)
        self.pieces.append((request, len(ids), params.max_tokens))
        self.params.append(params)
        scores = [None, *({token: SimpleNamespace(logprob=-1.0)} for token in ids[1:])]
        for number in range(params.max_tokens):
            await asyncio.sleep(0.001)
            if self.errored:
                raise EngineDeadError
            chance = zlib.crc32(repr(ids).encode())
            ends = self.ends and number > 2 and chance % 16 == 0
            token = self._tokenizer.eos_token_id if ends else self._words[chance % len(self._words)]
            ids.append(token)
            reason = "stop" if ends else "length" if number == params.max_tokens - 1 else None
            made = SimpleNamespace(
                token_ids=[token], logprobs=[{token: SimpleNamespace(logprob=-0.5)}], finish_reason=reason
            )
            asked = scores if params.prompt_logprobs is not None and not number else None
            yield SimpleNamespace(outputs=[made], num_cached_tokens=0, prompt_logprobs=asked)
            if reason is not None:
                return
