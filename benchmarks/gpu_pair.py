"""Measures a pair in two vLLM engines; benchmarks/gpu_pair.sh starts it and explains its settings.

Weights may be random, so that texts are forced: each generated token counts, and its text is replaced. A reasoning has
exactly its budget of tokens, a short answer four, and counts as complete; short answers agree or not, as an arm says.
Seconds are medians of questions that differ from their first token on, so that nothing is cached between them. Times at
a rate of agreement are composed from those of questions that agree and questions that do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from common import save
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind, Question
from cuecard.latency.roofline import PRESETS
from cuecard.models import spec
from cuecard.models.base import AnswerDelta, Event, Extras, Finished, Limits, Progress, ReasoningDelta, ReasoningEnded
from cuecard.models.prompt import Prompt
from cuecard.models.vllm.engine import EngineHost
from cuecard.models.vllm.loading import EngineSettings
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.policy_file import policy_with
from cuecard.strategies.run import answer
from handoff_vllm import SIDE, WORDS, Reader, picture, words

REASONED, AGREED, OTHER = "5", "7", "3"
MOST = 8192
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
MARKS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
"""Of the embedded pair's tokenizer, which random weights use."""
END = 2


@dataclass(frozen=True)
class Forced:
    """A model whose tokens are computed, and whose texts are given."""

    reader: Reader
    short: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        text = self.short if prompt.mode is Mode.SHORT else REASONED
        reasons, reasoned, answering = prompt.mode is Mode.REASON, 0, False
        limits = replace(limits, extras=Extras(logit_bias=((str(END), -100.0),)))
        async with aclosing(self.reader.stream(prompt, limits)) as events:
            async for event in events:
                match event:
                    case Progress(usage):
                        yield event
                        thought = usage.reasoning_tokens or 0
                        if reasons and thought > reasoned:
                            yield ReasoningDelta(f" {WORDS[thought % len(WORDS)]}" * (thought - reasoned))
                            reasoned = thought
                        elif not answering and (usage.completion_tokens or 0) > thought:
                            answering = True
                            yield AnswerDelta(text)
                    case ReasoningEnded():
                        yield event
                    case Finished():
                        yield replace(event, finish_reason=FinishReason.STOP)
                    case ReasoningDelta() | AnswerDelta():
                        pass
                    case started:
                        yield started


def checkpoint(text: str, folder: Path, visual: int) -> tuple[str, dict[str, Any]]:
    """The directory of a model and the engine's arguments for it; a preset becomes a directory without weights."""
    if text not in PRESETS:
        return text, {}
    config = json.loads(json.dumps(PRESETS[text])) | MARKS | {"architectures": ["Qwen3VLForConditionalGeneration"]}
    config["text_config"] |= {"eos_token_id": END, "pad_token_id": 0, "bos_token_id": None}
    made, embedded = folder / text, spec.Embedded("demo-large").folder
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER:
        shutil.copy(embedded / name, made / name)
    processor = json.loads((embedded / "preprocessor_config.json").read_text())
    processor["size"] = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2 * max(visual, 4)}
    (made / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(made), {"load_format": "dummy"}


def arms(given: argparse.Namespace) -> Mapping[str, tuple[str, str, bool, int]]:
    """By name: strategy, the reader's way, whether the short answers agree, tokens of reasoning."""
    return {
        "short:large": ("short:large", "streamed", False, 1),
        **{f"reason:large {tokens}": ("reason:large", "streamed", False, tokens) for tokens in given.reasoning},
        **{f"transfer, {way}": ("transfer", way, False, given.card) for way in ("streamed", "one token", "at once")},
        "mutual, agreed": ("mutual", "streamed", True, given.card),
        "mutual, not agreed": ("mutual", "streamed", False, given.card),
    }


async def once(hosts: Mapping[str, EngineHost], arm: tuple[str, str, bool, int], visual: int, seed: int) -> Outcome:
    strategy, way, agree, tokens = arm
    chance = Random(seed)
    images = (picture(visual, chance),) if visual else ()
    asked = Question(f"{seed}. How many {words(4, chance)}?", images, kind=AnswerKind.NUMBER)
    models = {
        "small": Forced(Reader(hosts["small"], "streamed"), AGREED),
        "large": Forced(Reader(hosts["large"], way), AGREED if agree else OTHER),
    }
    limits = Limits(answer_tokens=4, reasoning_tokens=tokens, timeout_s=None)
    policy = policy_with(Policy(schedule=Schedule.OVERLAP, limits=limits), accept="agree")
    return await answer(asked, models, strategy, policy)


async def measure(hosts: Mapping[str, EngineHost], given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[Outcome]] = {name: [] for name in arms(given)}
    seed = 0
    for repeat in range(-1, given.repeats):  # the first one warms up
        for name, arm in arms(given).items():
            seed += 1
            outcome = await once(hosts, arm, given.image, seed)
            print(f"{name}: {outcome.total_s:.3f} s, {outcome.route}", file=sys.stderr, flush=True)
            if repeat >= 0:
                found[name].append(outcome)
    rows = {name: figures(outcomes) for name, outcomes in found.items()}
    return {"given": {**vars(given), "out": None}, "arms": rows, "mutual": mutual(rows, given)}


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Medians of an arm: seconds, hand-off; its routes."""
    handoffs = [each.handoff_s for each in outcomes if each.handoff_s is not None]
    return {
        "total_s": statistics.median(each.total_s for each in outcomes),
        "handoff_s": statistics.median(handoffs) if handoffs else None,
        "routes": sorted({str(each.route) for each in outcomes}),
    }


def mutual(rows: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """By rate of agreement: composed seconds, speed-up over the large model's reasoning, and where they are equal."""
    times = [(tokens, rows[f"reason:large {tokens}"]["total_s"]) for tokens in given.reasoning]
    slope = statistics.linear_regression(*zip(*times, strict=True)) if len(times) > 1 else None
    found = {}
    for rate in given.agree:
        total = rate * rows["mutual, agreed"]["total_s"] + (1 - rate) * rows["mutual, not agreed"]["total_s"]
        even = None if slope is None or slope.slope <= 0 else (total - slope.intercept) / slope.slope
        found[f"{rate:g}"] = {
            "composed_s": total,
            "speed_up": {str(tokens): seconds / total for tokens, seconds in times},
            "break_even_tokens": even,
        }
    return found


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(each) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--small", "--large"):
        parser.add_argument(name, required=True, help="a preset, or a directory")
    for name, kind in (("--shares", float), ("--reasoning", int), ("--agree", float)):
        parser.add_argument(name, type=numbers(kind), required=True)
    for name in ("--card", "--image", "--repeats"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--out", type=Path, help="a file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts: dict[str, EngineHost] = {}
        try:
            for role, share in zip(("small", "large"), given.shares, strict=True):
                source, arguments = checkpoint(getattr(given, role), Path(folder), given.image)
                dtype = "float32" if given.eager else "bfloat16"
                settings = EngineSettings(share, MOST, dtype, None, given.eager, None, arguments)
                hosts[role] = EngineHost(role, source, settings)
            found = asyncio.run(measure(hosts, given))
        finally:
            for host in hosts.values():
                host.stop()
    text = save("gpu_pair", found).read_text() if given.out is None else json.dumps(found, indent=2)
    if given.out is not None:
        given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
