"""The prefix cache of a local model is limited in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hearing import LIMITS, hear

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Question
from cuecard.models import spec
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Computed, Prefixes, Room
from cuecard.models.prompt import TAGS, short

TOKEN_BYTES = 2 * 2 * 3 * 4
"""Bytes per token: keys and values of 2 heads with 3 numbers of 4 bytes."""


def room(capacity: int) -> Room:
    return Room(torch.zeros(1, 2, capacity, 3), torch.zeros(1, 2, capacity, 3), capacity)


def computed(first: int, rooms: tuple[Room, ...], length: int = 4) -> Computed:
    return Computed((first, *range(100, 99 + length)), (), rooms, 0)


def kept(prefixes: Prefixes, *firsts: int) -> list[bool]:
    return [prefixes.find([first, 100, 101], (), 0) is not None for first in firsts]


def test_what_was_used_least_recently_makes_room_for_more():
    prefixes = Prefixes(30 * TOKEN_BYTES)
    for first in (1, 2, 3):
        prefixes.keep(computed(first, (room(5), room(5))))
    assert prefixes.size_bytes == 30 * TOKEN_BYTES
    assert kept(prefixes, 2, 3, 1) == [True] * 3
    prefixes.keep(computed(4, (room(5), room(5))))
    assert prefixes.size_bytes == 30 * TOKEN_BYTES
    assert kept(prefixes, 1, 2, 3, 4) == [True, False, True, True]


def test_a_room_that_sequences_share_is_counted_once():
    prefixes, shared = Prefixes(10 * TOKEN_BYTES), room(10)
    for first in range(1, 8):
        prefixes.keep(computed(first, (shared,)))
    assert prefixes.size_bytes == 10 * TOKEN_BYTES
    assert kept(prefixes, *range(1, 8)) == [True] * 7


def test_a_sequence_that_is_larger_than_the_bound_is_not_kept_and_pushes_none_out():
    prefixes = Prefixes(10 * TOKEN_BYTES)
    prefixes.keep(computed(1, (room(10),)))
    prefixes.keep(computed(2, (room(11),)))
    assert kept(prefixes, 1, 2) == [True, False]


async def test_a_model_keeps_no_more_bytes_than_its_setting_says_and_says_the_same(
    checkpoints: Callable[[str], Path], qwen: LocalModel
) -> None:
    most = 2**18
    bounded = LocalModel.load(checkpoints("qwen3_vl"), device="cpu", prefix_cache_mib=most / 2**20)
    for number in range(12):
        prompt = short(Question(f"{number} cats and {number} dogs: {'how many ' * number}animals?"), TAGS)
        bounded_end, end = [(await hear(model, prompt, LIMITS)).events[-1] for model in (bounded, qwen)]
        # other cached prefixes mean another split of the prefill, so probabilities differ in their last digits
        assert replace(bounded_end, answer_logprob=end.answer_logprob) == end
        assert bounded_end.answer_logprob == pytest.approx(end.answer_logprob, abs=1e-3)
        held = bounded._prefixes._held.values()
        tensors = {each.data_ptr(): each for one in held for room in one.rooms for each in (room.keys, room.values)}
        assert sum(each.untyped_storage().nbytes() for each in tensors.values()) == bounded._prefixes.size_bytes <= most
    assert 0 < len(held) < 8
    await bounded.aclose()


@pytest.mark.parametrize("mib", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_no_size_is_refused_before_a_model_is_loaded(mib: float) -> None:
    with pytest.raises(BadInput, match="prefix_cache_mib is"):
        LocalModel.load("no such folder", prefix_cache_mib=mib)


async def test_a_models_table_sets_the_bound(checkpoints: Callable[[str], Path]) -> None:
    model = spec.load({"model": str(checkpoints("qwen3")), "prefix_cache_mib": 2})
    assert isinstance(model, LocalModel)
    assert model._prefixes._most_bytes == 2 * 2**20
    await model.aclose()
    with pytest.raises(BadInput, match="'prefix_cache_mib' does not apply"):
        spec.load({"model": "http://localhost:8000/v1#name", "prefix_cache_mib": 2})
