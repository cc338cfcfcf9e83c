"""A local checkpoint does not block the event loop, stops at cancellation, and is rejected if incomplete."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hearing import before_each_computation, hear

from cuecard.domain.errors import BadInput, CuecardError, ModelError, ModelRefused, Unsupported
from cuecard.domain.question import Image, Question
from cuecard.models.base import AnswerDelta, Limits, Progress, Started
from cuecard.models.local import transformers_network
from cuecard.models.local.engine import Engine
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import TAGS, reason, short

LIMITS = Limits(answer_tokens=24, reasoning_tokens=24)


@contextmanager
def on_every_forward(model: LocalModel, act: Callable[[], Any]) -> Iterator[None]:
    """Call `act` before every computation of the network, to delay it, raise an error or count."""
    stop = before_each_computation(model, act)
    try:
        yield
    finally:
        stop()


# --- the engine -------------------------------------------------------------------------------------------------------


async def test_the_event_loop_stays_free_during_a_call(qwen: LocalModel, question: Question) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with on_every_forward(qwen, lambda: time.sleep(0.1)):
        await hear(qwen, short(question, TAGS), Limits(answer_tokens=2))
    ticking.cancel()
    assert ticks > 10


async def test_two_calls_advance_by_turns(qwen: LocalModel, question: Question) -> None:
    order = ""

    async def listen(name: str) -> None:
        nonlocal order
        async for event in qwen.stream(reason(question, TAGS), LIMITS):
            order += name if isinstance(event, Progress) else ""

    await asyncio.gather(listen("a"), listen("b"))
    assert len(list(groupby(order))) > 3  # on a busy machine a turn can take several tokens


async def test_a_closed_generator_stops_the_network(qwen: LocalModel, question: Question) -> None:
    steps: list[int] = []
    with on_every_forward(qwen, lambda: (steps.append(1), time.sleep(0.002))):
        async with aclosing(qwen.stream(short(question, TAGS), Limits(answer_tokens=400, temperature=5.0))) as events:
            async for event in events:
                if isinstance(event, AnswerDelta):
                    break
        await asyncio.sleep(0.05)
        after = len(steps)
        await asyncio.sleep(0.05)
    assert len(steps) == after < 100


async def test_a_call_that_is_cancelled_before_it_began_is_never_computed(qwen: LocalModel, question: Question) -> None:
    steps: list[int] = []
    with on_every_forward(qwen, lambda: (steps.append(1), time.sleep(0.05))):
        busy = asyncio.create_task(hear(qwen, short(question, TAGS), Limits(answer_tokens=1)))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(hear(qwen, reason(question, TAGS), LIMITS))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await busy
        assert len(steps) <= 2


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("CUDA out of memory.\nTried to allocate 20 GiB"), KeyError("x"), ValueError(""), MemoryError()],
)
async def test_what_torch_raises_becomes_a_model_error_of_one_line(
    fault: Exception, qwen: LocalModel, question: Question
) -> None:
    def fail() -> None:
        raise fault

    with on_every_forward(qwen, fail), pytest.raises(ModelError) as caught:
        await hear(qwen, short(question, TAGS), LIMITS)
    assert str(caught.value).startswith(f"qwen3_vl: {type(fault).__name__}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is fault
    assert (await hear(qwen, short(question, TAGS), LIMITS)).end


async def test_a_broken_image_is_the_users_to_mend_and_the_model_goes_on(qwen: LocalModel, question: Question) -> None:
    broken = Question(question.text, (Image(b"\x89PNG\r\n\x1a\nnothing"),))
    with pytest.raises(BadInput, match="cannot be read"):
        await hear(qwen, short(broken, TAGS), LIMITS)
    assert (await hear(qwen, short(question, TAGS), LIMITS)).end


async def test_a_closed_model_ends_the_calls_under_way_and_refuses_new_ones(
    checkpoints: Callable[[str], Path], question: Question
) -> None:
    model = LocalModel.load(checkpoints("taught"), device="cpu")
    stream = model.stream(reason(question, TAGS), LIMITS)
    assert await anext(stream) == Started()
    with on_every_forward(model, lambda: time.sleep(0.02)):
        waiting = asyncio.create_task(hear(model, short(question, TAGS), LIMITS))
        await asyncio.sleep(0.03)
        await model.aclose()
    with pytest.raises(ModelError, match="was closed"):
        async for _ in stream:
            pass
    with pytest.raises(ModelError, match="was closed"):
        await waiting
    for call in (hear(model, short(question, TAGS), LIMITS), model.warm(short(question, TAGS))):
        with pytest.raises(ModelError, match="was closed"):
            await call
    await model.aclose()


async def test_an_engine_that_did_nothing_closes() -> None:
    Engine("idle").stop()


async def test_the_loop_stays_free_while_a_model_closes(checkpoints: Callable[[str], Path], question: Question) -> None:
    model = LocalModel.load(checkpoints("taught"), device="cpu")
    with on_every_forward(model, lambda: time.sleep(0.3)):
        waiting = asyncio.create_task(hear(model, short(question, TAGS), LIMITS))
        await asyncio.sleep(0.1)
        closing, began = asyncio.create_task(model.aclose()), time.perf_counter()
        await asyncio.sleep(0.01)
        assert time.perf_counter() - began < 0.15
        await closing
    with pytest.raises(ModelError, match="was closed"):
        await waiting


async def test_a_model_without_references_is_freed_even_if_it_was_never_closed(
    checkpoints: Callable[[str], Path], question: Question
) -> None:
    model = LocalModel.load(checkpoints("taught"), device="cpu")
    await hear(model, short(question, TAGS), LIMITS)
    weights = weakref.ref(model._network.model)
    del model
    gc.collect()
    assert weights() is None


# --- checkpoints ------------------------------------------------------------------------------------------------------


def dtypes(model: LocalModel) -> set[torch.dtype]:
    return {weight.dtype for weight in model._network.model.parameters()}


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
async def test_half_precision_is_computed_as_float32_on_a_cpu(
    saved: torch.dtype, tmp_path: Path, checkpoints: Callable[[str], Path], question: Question
) -> None:
    folder = copied(checkpoints("qwen3_vl"), tmp_path)
    weights = transformers_network.AutoModelForImageTextToText.from_pretrained(folder, dtype=saved)
    weights.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(saved).removeprefix("torch.")
    model = LocalModel.load(folder, device="cpu")
    assert dtypes(model) == {torch.float32}
    assert (await hear(model, short(question, TAGS), LIMITS)).end
    await model.aclose()


async def test_a_type_that_is_asked_for_is_used(checkpoints: Callable[[str], Path], question: Question) -> None:
    model = LocalModel.load(checkpoints("qwen3_vl"), dtype="bfloat16")
    assert dtypes(model) == {torch.bfloat16}
    assert (await hear(model, short(question, TAGS), LIMITS)).end
    await model.aclose()


def copied(checkpoint: Path, folder: Path, *but: str) -> Path:
    for path in checkpoint.iterdir():
        if path.name not in but:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def lose_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.language_model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_a_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("settings", [{}, {"device": "cpu"}], ids=["numpy", "transformers"])
@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), BadInput, "no checkpoint at"),
        (lambda folder: (folder / "config.json").write_text("{"), BadInput, "no checkpoint at"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "x"}'), BadInput, "no checkpoint at"),
        (lambda folder: (folder / "config.json").write_text("null"), BadInput, "no checkpoint at"),
        (lambda folder: (folder / "model.safetensors").unlink(), ModelRefused, "does not load"),
        (cut_weights, ModelRefused, "does not load"),
        (lose_a_weight, ModelRefused, "lacks 1 of its weights: .*up_proj"),
        (change_a_shape, ModelRefused, "does not load"),
        (lambda folder: (folder / "tokenizer.json").unlink(), ModelRefused, "does not load"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), ModelRefused, "does not load"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(
    damage: Callable[[Path], Any],
    error: type[CuecardError],
    words: str,
    settings: dict[str, str],
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
) -> None:
    damage(copied(checkpoints("qwen3_vl"), tmp_path))
    with pytest.raises(error, match=words) as caught:
        LocalModel.load(tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"dtype": "float33"}, BadInput, "unknown dtype 'float33'"),
        ({"dtype": "nn"}, BadInput, "unknown dtype 'nn'"),
        ({"device": "toaster"}, ModelRefused, "does not load"),
    ],
)
def test_settings_that_do_not_exist_are_refused(
    settings: dict[str, str], error: type[CuecardError], words: str, checkpoints: Callable[[str], Path]
) -> None:
    with pytest.raises(error, match=words):
        LocalModel.load(checkpoints("qwen3_vl"), **settings)


async def test_a_model_without_prefixes_says_that_it_cannot_warm(
    loaded: Callable[[str], LocalModel], question: Question
) -> None:
    with pytest.raises(Unsupported, match="keeps no prefixes"):
        await loaded("gemma3").warm(short(question, TAGS))
