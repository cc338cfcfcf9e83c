"""Capture equals eager attention, for the answer's queries only and every kind of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
from transformers import DynamicCache

from cuecard.attention.api import borrowed, capture, decode, own
from cuecard.domain.errors import BadInput, ModelError, Unsupported
from cuecard.domain.question import Question
from cuecard.models.base import Limits
from cuecard.models.local import attention_hook as rows_module
from cuecard.models.local.attention_hook import Rows
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Room, Span, Spans, with_room
from cuecard.models.local.transformers_network import GrowingLayer
from cuecard.models.prompt import CardFormat, Prompt, reason, short
from cuecard.models.simulated import Profile, Script, SimulatedModel

CARD = "Let us count row by row. Row 1 shows red (1), blue, red (2), green. 它有两个红色。 So the answer is 2."
ASKED = Question("How many red digits are there?")
Load = Callable[[str], LocalModel]


def everything(rows: Rows, spans: Spans) -> Rows:
    return rows


def eager(model: LocalModel, prompt: Prompt, ids: tuple[int, ...], queries: int) -> Any:
    """Attentions (layers of (heads, queries, keys)) and logits of one full forward pass with eager attention."""
    checkpoint, inputs = model._network.model, model._reader.inputs(prompt)
    more = len(ids) - len(inputs.ids)
    tensors = {
        name: torch.nn.functional.pad(part, (0, more)) if part.shape[:2] == (1, len(inputs.ids)) else part
        for name, part in inputs.tensors.items()
    }
    usual = checkpoint.config.get_text_config()._attn_implementation
    checkpoint.set_attn_implementation("eager")
    with torch.inference_mode():
        out = checkpoint(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False, **tensors)
    checkpoint.set_attn_implementation(usual)
    return [layer[0, :, -queries:] for layer in out.attentions], out.logits[0, -queries:]


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "qwen3",
        "gemma2",
        "gemma3",
        "gpt_oss",
        "gemma3_vision",
        "qwen3_vl",
        "qwen2_5_vl",
        "llava",
        "demo-small",
        "demo-large",
    ],
)
@pytest.mark.parametrize("form", [CardFormat.THINKING, CardFormat.NOTES])
async def test_the_rows_are_those_of_eager_attention(
    load: Load, question: Question, family: str, form: CardFormat
) -> None:
    model = load(family)
    asked = question if model.abilities.images else ASKED
    prompt = borrowed(asked, model.abilities.style, CARD, form)
    seen = await capture(model, prompt, "7 red digits", everything)
    attentions, logits = eager(model, prompt, seen.ids, seen.queries)
    assert [rows.layer for rows in seen.layers] == list(range(len(attentions)))
    for rows, expected in zip(seen.layers, attentions, strict=True):
        torch.testing.assert_close(rows.weights, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.logits, logits, atol=2e-5, rtol=1e-4)


async def test_a_row_and_its_sink_sum_to_one_and_without_the_sink_the_row_does(load: Load) -> None:
    seen = await capture(load("gpt_oss"), short(ASKED, load("gpt_oss").abilities.style), "7", everything)
    for rows in seen.layers:
        assert rows.sink is not None
        assert 1e-3 < rows.sink.median() < rows.sink.max() < 0.99
        torch.testing.assert_close(rows.weights.sum(-1) + rows.sink, torch.ones_like(rows.sink))
        torch.testing.assert_close(rows.without_sink.sum(-1), torch.ones_like(rows.sink))


async def test_a_sliding_window_is_recorded_and_has_no_attention_outside(load: Load) -> None:
    model = load("gemma3")
    seen = await capture(model, borrowed(ASKED, model.abilities.style, CARD, CardFormat.NOTES), "7", everything)
    assert [rows.window for rows in seen.layers] == [24, None, 24, None]
    sliding, full = seen.layers[0].weights, seen.layers[1].weights
    assert sliding[:, 0, : len(seen.ids) - seen.queries - 24 + 1].abs().max() == 0
    assert full[:, 0, 0].min() > 0


async def test_the_outputs_are_the_weighted_sums_of_each_group_s_values(load: Load) -> None:
    for family in ("llama", "gpt_oss", "gemma3"):
        model = load(family)
        seen = await capture(model, borrowed(ASKED, model.abilities.style, CARD, CardFormat.NOTES), "7", everything)
        for rows in seen.layers:
            values = rows.values.repeat_interleave(4, 0)
            sums = rows.weights[..., -values.shape[1] :] @ values
            torch.testing.assert_close(rows.outputs, sums, atol=1e-5, rtol=1e-4)


async def test_blocks_of_keys_make_no_difference(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("gpt_oss")
    prompt = borrowed(ASKED, model.abilities.style, CARD, CardFormat.NOTES)
    whole = await capture(model, prompt, "7", everything)
    monkeypatch.setattr(rows_module, "BLOCK", 7)
    cut = await capture(model, prompt, "7", everything)
    for one, other in zip(whole.layers, cut.layers, strict=True):
        torch.testing.assert_close(one.weights, other.weights, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.outputs, other.outputs, atol=1e-6, rtol=1e-5)


def test_a_pass_holds_little_more_than_one_layer_s_row() -> None:
    torch.manual_seed(0)
    model, keys, queries = families.qwen3(), 2048, 4
    cache, ids = DynamicCache(config=model.config), torch.randint(0, 1024, (1, keys))
    with torch.inference_mode():
        model(input_ids=ids[:, :-queries], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.layers = [roomy(layer) for layer in cache.layers]
        watched = torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU])
        with watched as profile, rows_module.listening(model, lambda rows: None, keys) as heard:
            model(input_ids=ids[:, -queries:], past_key_values=cache, use_cache=True)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert len(heard) == 4
    assert 1 <= most / (4 * 8 * queries * keys) < 1.5


def roomy(layer: Any) -> GrowingLayer:
    """A layer's keys and values with spare room, so that appending does not copy them."""
    tokens = layer.keys.shape[2]
    larger = with_room(Room(layer.keys, layer.values, tokens), layer.keys, tokens, 4096)
    larger.used = tokens
    return GrowingLayer(larger, tokens)


async def test_bfloat16_is_reduced_in_fp32(load: Load) -> None:
    model = load("qwen3")
    model._network.model.to(torch.bfloat16)
    try:
        seen = await capture(model, short(ASKED, model.abilities.style), "7", everything)
    finally:
        model._network.model.float()
    assert all(rows.weights.dtype is rows.outputs.dtype is torch.float32 for rows in seen.layers)


async def test_own_reasoning_is_seen_in_the_tokens_that_were_decoded(load: Load, question: Question) -> None:
    model = load("demo-small")
    reasoning, answer = await decode(model, reason(question, model.abilities.style), Limits())
    prompt = own(question, model.abilities.style, reasoning)
    assert (await capture(model, prompt, answer, everything)).as_decoded
    model.forget()
    assert not (await capture(model, prompt, answer, everything)).as_decoded


async def test_a_capture_changes_nothing_that_comes_after_it(load: Load, question: Question) -> None:
    model = load("demo-small")
    prompt = reason(question, model.abilities.style)
    before = await decode(model, prompt, Limits())
    behind = own(question, model.abilities.style, before[0])
    first = await capture(model, behind, before[1], everything)
    hidden = await capture(model, behind, before[1], everything, hidden=first.spans.of(Span.REASONING))
    again = await capture(model, behind, before[1], everything)
    assert await decode(model, prompt, Limits()) == before
    assert hidden.logits[0].argmax() != first.logits[0].argmax()
    assert model._network.model.config.get_text_config()._attn_implementation == "sdpa"
    for one, other in zip(first.layers, again.layers, strict=True):
        torch.testing.assert_close(one.weights, other.weights)


async def test_hidden_keys_are_seen_by_no_query(load: Load) -> None:
    for family in ("qwen3", "gemma3", "gpt_oss"):
        model = load(family)
        prompt = borrowed(ASKED, model.abilities.style, CARD, CardFormat.NOTES)
        places = (await capture(model, prompt, "7", everything)).spans.of(Span.REASONING)
        seen = await capture(model, prompt, "7", everything, hidden=places)
        assert all(rows.weights[..., places].max() == 0 for rows in seen.layers)
        taken = [0 if rows.sink is None else rows.sink for rows in seen.layers]
        assert all(
            ((rows.weights.sum(-1) + sink) - 1).abs().max() < 1e-5
            for rows, sink in zip(seen.layers, taken, strict=True)
        )


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_an_empty_answer_is_refused(load: Load) -> None:
    with pytest.raises(BadInput, match="the answer is empty"):
        await capture(load("qwen3"), short(ASKED, load("qwen3").abilities.style), "", everything)


async def test_a_model_without_a_hook_is_refused_and_works_on(load: Load) -> None:
    model = load("gpt_neo")
    with pytest.raises(Unsupported, match="GPTNeoForCausalLM has no hook for its attention"):
        await capture(model, short(ASKED, model.abilities.style), "7", everything)
    await decode(model, short(ASKED, model.abilities.style), Limits(answer_tokens=2))


async def test_a_model_elsewhere_is_refused() -> None:
    away = SimulatedModel("away", Profile(0, 0, 0), lambda prompt: Script("7"), None)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="away does not run in this process"):
        await capture(away, short(ASKED, away.abilities.style), "7", everything)


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize(("free", "error"), [(0, None), (None, NO_MEMORY[0]), (None, NO_MEMORY[1])])
async def test_too_little_memory_is_a_one_line_error(
    load: Load, monkeypatch: pytest.MonkeyPatch, free: int | None, error: Exception | None
) -> None:
    def full(rows: Rows, spans: Spans) -> None:
        if error:
            raise error

    monkeypatch.setattr(rows_module, "free_bytes", lambda device: free)
    with pytest.raises(ModelError, match="not enough memory for one layer's attention to 20 tokens"):
        await capture(load("qwen3"), short(ASKED, load("qwen3").abilities.style), "7", full)


def test_reasoning_that_is_not_there_is_refused(load: Load) -> None:
    style = load("qwen3").abilities.style
    with pytest.raises(BadInput, match="no reasoning to look at"):
        own(ASKED, style, " \n")
    with pytest.raises(BadInput, match="no reasoning to look at"):
        borrowed(ASKED, style, "", CardFormat.NOTES)
