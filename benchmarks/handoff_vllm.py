"""Hand-off inside vLLM:  .servers/vllm/bin/python benchmarks/handoff_vllm.py, after tests/servers/install.sh vllm

One reader, four ways to read a card that another model is still writing: streamed into the prefill, warmed by requests
of one token in process, warmed by such requests over HTTP, and read at once at the end. The three in process share an
engine; a `vllm serve` with the same checkpoint and settings stands beside it, idle while it is not its turn. The writer
is scripted, at a steady pace: the hand-off is the reader's alone. The cards are of 64 to 1,024 tokens, the images of 64
to 1,024 visual tokens. Ways alternate, and no question repeats, so that nothing is cached from one to the next.

The reader is a checkpoint of the embedded pair whose images are not scaled down: Qwen3-VL's architecture, 3.5M
parameters. `--model DIR` takes any other; without images if it is a language model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from common import handoff_figures, save
from cuecard.demo import boards
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models import spec
from cuecard.models.base import Limits, Model
from cuecard.models.replay import Says, ScriptedModel
from cuecard.models.vllm.engine import EngineHost
from cuecard.models.vllm.loading import EngineSettings
from cuecard.models.vllm.model import VllmModel
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer

HERE = Path(__file__).parent
WAYS = ("streamed", "one token", "one token over HTTP", "at once")
CARDS, IMAGES = (64, 256, 1024), (64, 256, 1024)
CARD_OF_IMAGES = 256
"""Tokens of a card about an image."""
SIDE = 32
"""Pixels of a visual token's side."""
WORDS = ("the", "cell", "digit", "red", "row", "column", "jump", "is", "in", "and", "shows", "look", "at")
MOST, SEQUENCES = 4096, 16


def words(count: int, chance: Random) -> str:
    """A card of about this many tokens."""
    return "".join(f" {chance.choice(WORDS)}" for _ in range(count))


def picture(tokens: int, chance: Random) -> Image:
    """A picture of about this many visual tokens, different each time."""
    side = SIDE * round(tokens**0.5)
    noise = np.random.default_rng(chance.randrange(2**32)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return boards.png(noise)


@contextmanager
def served(source: str, log: Path, *, sees_images: bool) -> Iterator[Model]:
    """A `vllm serve` of a checkpoint, as the model behind it."""
    sys.path.insert(0, str(HERE.parent / "tests" / "servers"))
    from programs import free_port, running

    port = free_port()
    flags = f"--enforce-eager --dtype float32 --max-num-seqs {SEQUENCES} --max-model-len {MOST} --port {port}"
    names = "--host 127.0.0.1 --served-model-name reader --enable-prompt-tokens-details"
    command = [Path(sys.executable).parent / "vllm", "serve", source, *flags.split(), *names.split()]
    template = ["--chat-template-content-format", "openai"] if sees_images else []
    cache = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with running([*command, *template], f"http://127.0.0.1:{port}/health", log, 600, **cache):
        known = {"prefill": True, "images": sees_images, "logprobs": True, "prefix_cache": True, "timeout_s": 600}
        yield spec.load({"model": f"http://127.0.0.1:{port}/v1#reader", **known})


class Reader:
    """A VllmModel on a shared engine that reads cards in one way."""

    def __init__(self, host: EngineHost, way: str) -> None:
        self._model = VllmModel(way, host)
        if way == "one token":
            self._model.stop_streaming("one-token requests")
        sessions = way != "at once"
        self.name, self.abilities = way, replace(self._model.abilities, prefix_sessions=sessions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def unscaled(folder: Path) -> Path:
    """A copy of the large embedded checkpoint whose images keep their size, up to 1,024 visual tokens."""
    source = spec.Embedded("demo-large").folder
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "generation_config.json", folder)
    processor = json.loads((source / "preprocessor_config.json").read_text())
    processor["size"] = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2 * max(IMAGES)}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


async def once(reader: Any, card_tokens: int, visual: int, seed: int, token_s: float) -> Outcome:
    """One `transfer` with a card of this length, written at a steady pace."""
    chance = Random(seed)
    card = words(card_tokens, chance)
    images = (picture(visual, chance),) if visual else ()
    asked = Question(f"Question {seed}: how many {words(4, chance)}?", images, kind=AnswerKind.NUMBER)
    writer: Model = ScriptedModel(
        "writer", lambda prompt: Says("7", card, token_s=token_s), style=reader.abilities.style
    )
    limits = Limits(answer_tokens=4, reasoning_tokens=4 * MOST, timeout_s=None)
    policy = Policy(schedule=Schedule.OVERLAP, limits=limits)
    return await answer(asked, {"small": writer, "large": reader}, "transfer", policy)


def cells(sees_images: bool) -> Iterator[tuple[int, int]]:
    """(card tokens, visual tokens) of every row."""
    yield from ((card, CARDS[0] if sees_images else 0) for card in CARDS)
    if sees_images:
        yield from (
            (CARD_OF_IMAGES, visual) for visual in IMAGES if (CARD_OF_IMAGES, visual) != (CARD_OF_IMAGES, CARDS[0])
        )


async def measure(host: EngineHost, remote: Model, repeats: int, token_s: float) -> dict[str, Any]:
    readers: dict[str, Any] = {way: remote if "HTTP" in way else Reader(host, way) for way in WAYS}
    sees = bool(readers[WAYS[0]].abilities.images)
    rows, seed = [], 0
    for card, visual in cells(sees):
        found: dict[str, list[Outcome]] = {way: [] for way in WAYS}
        for repeat in range(-1, repeats):  # the first one warms up
            for way in WAYS:
                seed += 1
                outcome = await once(readers[way], card, visual, seed, token_s)
                if repeat >= 0:
                    found[way].append(outcome)
        for way, outcomes in found.items():
            if all(each.handoff_s is None for each in outcomes):
                sys.exit(
                    f"{way}: the reader ends its turn without a token, so that there is no hand-off; take another one"
                )
        row = {"card_tokens": card, "visual_tokens": visual} | {way: handoff_figures(found[way]) for way in WAYS}
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    return {"rows": rows, "ratios": ratios(rows), "token_s": token_s}


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By way: the hand-off of the longest card and of the largest image, by that of the shortest and the smallest."""
    ends: Mapping[str, list[dict[str, Any]]] = {
        "card": [
            row for row in rows if row["visual_tokens"] == rows[0]["visual_tokens"] and row["card_tokens"] in CARDS
        ],
        "image": [row for row in rows if row["card_tokens"] == CARD_OF_IMAGES],
    }
    return {
        what: {way: each[-1][way]["handoff_s"] / each[0][way]["handoff_s"] for way in WAYS}
        for what, each in ends.items()
        if len(each) > 1
    }


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--model", help="a directory; by default the large embedded checkpoint")
    given.add_argument("--repeats", type=int, default=7)
    given.add_argument("--token-s", type=float, default=0.005, help="seconds that the writer takes for a token")
    given.add_argument("--name", default="handoff_vllm", help="of the file in benchmarks/results")
    given = given.parse_args()
    arguments = {"kv_cache_memory_bytes": 2**29, "max_num_seqs": SEQUENCES}
    settings = EngineSettings(dtype="float32", eager=True, max_len=MOST, engine_args=arguments)
    with tempfile.TemporaryDirectory() as folder:
        (weights := Path(folder) / "weights").mkdir()
        source = given.model or str(unscaled(weights))
        host = EngineHost("reader", source, settings)
        try:
            sees = bool(host.engine.model_config.is_multimodal_model)
            with served(source, Path(folder) / "server.log", sees_images=sees) as remote:
                found = asyncio.run(measure(host, remote, given.repeats, given.token_s))
        finally:
            host.stop()
    print(save(given.name, found).read_text())


if __name__ == "__main__":
    main()
