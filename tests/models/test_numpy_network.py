"""The NumPy implementation of the embedded pair gives the same output as Transformers' layers."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hearing import hear
from PIL import Image as PilImage

import cuecard
from cuecard.demo import boards, tasks
from cuecard.domain.errors import ModelRefused
from cuecard.domain.question import Image, Question
from cuecard.models.base import Limits, Weighing
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.embedded_network import NumpyNetwork
from cuecard.models.local.model import LocalModel
from cuecard.models.local.transformers_network import TransformersNetwork
from cuecard.models.prompt import EMBEDDED, CardFormat, Prompt, read, reason, short

pytestmark = pytest.mark.slow

WEIGHTS = Path(cuecard.__file__).parent / "weights"
LIMITS = Limits(answer_tokens=8, reasoning_tokens=200)
QUESTIONS = [each.question for each in boards.exercises(6, 5)] + [
    Question(item.text, (Image(item.image_path.read_bytes()),), kind=item.kind)
    for item in Random(2).sample(tasks.photo_questions("test"), 4)
]


@pytest.fixture(scope="module", params=["demo-small", "demo-large"])
def both(request: pytest.FixtureRequest) -> tuple[LocalModel, LocalModel]:
    """A checkpoint loaded with NumPy and with Transformers."""
    by_numpy = LocalModel.load(WEIGHTS / request.param)
    by_transformers = LocalModel.load(WEIGHTS / request.param, device="cpu")
    assert isinstance(by_numpy._network, NumpyNetwork)
    assert isinstance(by_transformers._network, TransformersNetwork)
    return by_numpy, by_transformers


def prompts(question: Question) -> list[Prompt]:
    card = "Let us look at the cell that the question names: cell 3 shows a red 4."
    return [
        short(question, EMBEDDED),
        reason(question, EMBEDDED),
        *(read(question, card, form, EMBEDDED) for form in CardFormat),
    ]


def picture(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    PilImage.fromarray(noise).save(buffer, "PNG")
    return Image(buffer.getvalue())


async def test_tokens_are_the_same(both: tuple[LocalModel, LocalModel]) -> None:
    for question in QUESTIONS:
        for prompt in prompts(question):
            one, other = [await hear(model, prompt, LIMITS) for model in both]
            assert (one.answer, one.reasoning, one.end.usage) == (other.answer, other.reasoning, other.end.usage)
            assert one.end.answer_logprob == pytest.approx(other.end.answer_logprob, abs=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (200, 90), (31, 640), (1000, 700)])
def test_images_of_any_size_have_the_same_pixels_and_logits(
    both: tuple[LocalModel, LocalModel], size: tuple[int, int]
) -> None:
    prompt = short(Question("Which digit is in cell 5?", (picture(*size), picture(96, 128))), EMBEDDED)
    logits: list[Any] = []
    for model in both:
        inputs = model._reader.inputs(prompt)
        logits.append((inputs.ids, model._network.read(inputs, model._network.cache(), 8192)))
    (ids, (found, delta)), (expected_ids, (expected, expected_delta)) = logits
    assert (ids, delta) == (expected_ids, expected_delta)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4, rtol=1e-4)


def test_logits_of_a_text_in_pieces_are_those_of_the_whole(both: tuple[LocalModel, LocalModel]) -> None:
    ids = [7 + 13 * place % 600 for place in range(300)]
    found = []
    for model in both:
        network = model._network
        cache = network.cache()
        parts = [network.extend(ids[:120], 0, cache, 0), network.extend(ids[120:299], 120, cache, 0)]
        (last,) = network.append(ids[299:], [299], [cache])
        found.append(np.asarray(network.joined([*parts, last])))
    np.testing.assert_allclose(*found, atol=5e-4, rtol=1e-3)


async def test_calls_decoded_together_say_what_they_say_alone(both: tuple[LocalModel, LocalModel]) -> None:
    model = both[0]
    asked = [reason(question, EMBEDDED) for question in QUESTIONS]
    alone = [(await hear(model, prompt, LIMITS)).reasoning for prompt in asked]
    model.forget()
    together = await asyncio.gather(*(hear(model, prompt, LIMITS) for prompt in asked))
    assert [each.reasoning for each in together] == alone


async def test_attention_and_likelihoods_are_the_same(both: tuple[LocalModel, LocalModel]) -> None:
    prompt = read(QUESTIONS[0], "Cell 3 shows a red 4.", CardFormat.THINKING, EMBEDDED)

    def kept(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return rows.weights, rows.values, rows.outputs

    for hidden in ((), (20, 21)):
        one, other = [await model.attend(prompt, "4", kept, hidden) for model in both]
        assert (one.ids, one.queries) == (other.ids, other.queries)
        for ours, theirs in zip(one.layers, other.layers, strict=True):
            for part, expected in zip(ours, theirs, strict=True):
                torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-3)
    for by in Weighing:
        (weights, usage), (expected_weights, expected_usage) = [await model.weigh(prompt, "4", by) for model in both]
        assert usage == expected_usage
        assert [word for word, _ in weights] == [word for word, _ in expected_weights]
        assert [weight for _, weight in weights] == pytest.approx([each for _, each in expected_weights], abs=1e-4)
    assert await both[0].score(prompt, "red 4") == pytest.approx(await both[1].score(prompt, "red 4"), abs=1e-4)


@pytest.mark.parametrize("seed", [3, -1, 1 - 2**63])
async def test_a_seed_draws_the_same_reasoning_again(both: tuple[LocalModel, LocalModel], seed: int) -> None:
    warm = Limits(reasoning_tokens=60, temperature=1.5, seed=seed)
    first, again = [await hear(both[0], reason(QUESTIONS[0], EMBEDDED), warm) for _ in range(2)]
    assert first.reasoning == again.reasoning


def not_finite(file: bytes) -> bytes:
    return file[:-2000] + np.full(1000, np.nan, np.float16).tobytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file[:4], "has 4 bytes and is no whole safetensors file"),
        (lambda file: file[:3000], "has 3,000 bytes and is no whole safetensors file"),
        (lambda file: file[:-1], "is truncated"),
        (lambda file: b"version https://git-lfs.github.com/spec/v1", "is no whole safetensors file"),
        (lambda file: file.replace(b'"F16"', b'"I16"'), "is in I16"),
        (not_finite, "has values that are not finite"),
    ],
    ids=["its length alone", "half its header", "one byte short", "a pointer", "another type", "not finite"],
)
def test_damaged_weights_are_refused_with_the_damage(
    damage: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(WEIGHTS / "demo-small", tmp_path / "demo-small"))
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelRefused, match=words):
        LocalModel.load(folder)
