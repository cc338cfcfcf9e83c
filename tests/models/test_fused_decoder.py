"""The fused decoder gives the same output as Transformers' layers, or is not used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hearing import hear
from torch import nn
from transformers import DynamicCache

from cuecard.domain.question import Question
from cuecard.models.base import Limits
from cuecard.models.local.fused_decoder import StaticDecoder, applies
from cuecard.models.local.model import LocalModel
from cuecard.models.local.transformers_network import growing
from cuecard.models.prompt import TAGS, reason

LIMITS = Limits(answer_tokens=16, reasoning_tokens=16)
IDS = torch.tensor([[5, 9, 40, 41, 42, 43, 44], [7, 9, 50, 41, 52, 43, 54]])


def read(model: Any, ids: torch.Tensor) -> tuple[DynamicCache, torch.Tensor]:
    """Prefill with Transformers' layers: KV cache, and (batch, vocabulary) logits of the next token."""
    cache = growing(model.config)
    with torch.inference_mode():
        return cache, model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3", "llama", "qwen2_5_vl"])
@pytest.mark.parametrize("fixed", [False, True])
def test_each_step_has_the_logits_of_the_layers(family: str, fixed: bool, loaded: Callable[[str], LocalModel]) -> None:
    model: Any = loaded(family)._network.model
    assert applies(model)
    cache, _ = read(model, IDS[:, :4])
    with torch.inference_mode():
        decoder = StaticDecoder(model)
        held: Any = cache.layers
        if fixed:
            held = decoder.fixed(len(IDS), 16)
            for place, layer in zip(held, cache.layers, strict=True):
                place.keys[:, :, :4], place.values[:, :, :4] = layer.keys, layer.values
            held[0].at.fill_(4)
        for position in range(4, 7):
            found = decoder.logits(IDS[:, position], position, held)
            wanted = read(model, IDS[:, : position + 1])[1]
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
            if fixed:
                held[0].at += 1


def test_the_checkpoint_shares_the_fused_weights(loaded: Callable[[str], LocalModel]) -> None:
    model: Any = loaded("qwen3")._network.model
    decoder = StaticDecoder(model)
    fused = decoder.layers[0].qkv
    assert model.model.layers[0].self_attn.v_proj.weight.untyped_storage().data_ptr() == fused.data_ptr()


def test_rotations_go_on_behind_those_that_were_made_first(loaded: Callable[[str], LocalModel]) -> None:
    model: Any = loaded("qwen3")._network.model
    decoder = StaticDecoder(model)
    decoder.cos, decoder.sin = decoder.cos[:4], decoder.sin[:4]
    cache, _ = read(model, IDS[:, :6])
    with torch.inference_mode():
        found = decoder.logits(IDS[:, 6], 6, cache.layers)
    torch.testing.assert_close(found, read(model, IDS)[1], atol=1e-4, rtol=1e-4)


async def test_a_local_model_decodes_by_it_and_says_the_same(
    loaded: Callable[[str], LocalModel], question: Question
) -> None:
    model = loaded("qwen3_vl")
    prompt = reason(question, TAGS)
    fast = await hear(model, prompt, LIMITS)
    assert model._network.fused is not None
    model.forget()
    model._network.may_fuse = False
    slow = await hear(model, prompt, LIMITS)
    model._network.may_fuse = True
    assert (fast.reasoning, fast.answer, fast.end.usage) == (slow.reasoning, slow.answer, slow.end.usage)
    assert fast.end.answer_logprob == pytest.approx(slow.end.answer_logprob, abs=1e-4)


async def test_a_decoder_that_says_something_else_is_not_taken(
    loaded: Callable[[str], LocalModel], question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen3_vl")
    prompt = reason(question, TAGS)
    expected = await hear(model, prompt, LIMITS)
    model.forget()
    model._network.fused = None
    right = StaticDecoder.step
    monkeypatch.setattr(StaticDecoder, "step", lambda *given: right(*given) + 0.01)
    heard = await hear(model, prompt, LIMITS)
    assert model._network.fused is None
    assert not model._network.may_fuse
    model._network.may_fuse = True
    assert (heard.reasoning, heard.answer) == (expected.reasoning, expected.answer)


def test_other_architectures_and_quantised_layers_keep_their_own_layers(loaded: Callable[[str], LocalModel]) -> None:
    assert not applies(loaded("gemma3")._network.model)
    model: Any = loaded("qwen3")._network.model

    class Packed(nn.Linear):
        """Stands for the replacement of a linear layer by a quantisation library."""

    mlp = model.model.layers[0].mlp
    plain = mlp.up_proj
    mlp.up_proj = Packed(plain.in_features, plain.out_features, bias=False)
    assert not applies(model)
    mlp.up_proj = plain
    assert applies(model)
