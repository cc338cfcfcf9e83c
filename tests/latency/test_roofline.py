"""A model's dimensions, the least work that follows from them, and the ratio of readings to it."""

from __future__ import annotations

import pytest

from cuecard.domain.errors import BadInput
from cuecard.latency.roofline import PRESETS, Device, devices, dimensions_of, unknown_preset, works

H100 = Device("H100", 989.4e12, 3.35e12)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-vl-2b", 2.13),
        ("qwen3-vl-4b", 4.44),
        ("qwen3-vl-8b", 8.77),
        ("qwen3-vl-32b", 33.4),
        ("qwen3-vl-30b-a3b", 31.1),
    ],
)
def test_presets_have_the_published_number_of_weights(name: str, billions: float) -> None:
    assert dimensions_of(PRESETS[name]).weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_language_model_has_no_encoder_and_an_unknown_encoder_has_no_dimensions() -> None:
    text = PRESETS["qwen3-vl-2b"]["text_config"]
    assert dimensions_of(text).vision is None
    assert dimensions_of({"text_config": text, "vision_config": {"hidden_size": 8}}).vision is None


def test_a_configuration_without_a_decoder_is_refused() -> None:
    with pytest.raises(BadInput, match="hidden_size"):
        dimensions_of({"model_type": "resnet"})


def test_an_unknown_preset_gets_the_nearest_one_as_a_hint() -> None:
    assert unknown_preset("qwen3-vl-7b").hint.startswith("did you mean qwen3-vl-")


def test_decoding_one_token_reads_every_weight_of_the_decoder_once() -> None:
    sizes = dimensions_of(PRESETS["qwen3-vl-2b"])
    work = works(sizes, "bfloat16", batch=1, visual=0, prompt=1, output=2)["decode"]
    assert work.bytes == pytest.approx(2 * sizes.text.weights, rel=1e-3)
    assert work.flops == pytest.approx(2 * sizes.text.weights, rel=1e-3)
    assert work.bound(H100) == "bandwidth"


def test_a_batch_shares_the_weights_and_not_the_arithmetic() -> None:
    sizes = dimensions_of(PRESETS["qwen3-vl-8b"])
    one, eight = (works(sizes, "bfloat16", batch=n, visual=0, prompt=64, output=9)["decode"] for n in (1, 8))
    assert eight.flops == pytest.approx(8 * one.flops)
    assert eight.bytes < 1.1 * one.bytes


def test_a_token_of_a_mixture_reads_its_experts_only() -> None:
    sizes = dimensions_of(PRESETS["qwen3-vl-30b-a3b"])
    work = works(sizes, "bfloat16", batch=1, visual=0, prompt=1, output=2)["decode"]
    assert 2 * 2.5e9 < work.bytes < 2 * 3.5e9
    many = works(sizes, "bfloat16", batch=512, visual=0, prompt=1, output=2)["decode"]
    assert many.bytes > 2 * 0.99 * sizes.text.weights - 2 * sizes.text.head_weights


def test_long_prompts_are_bound_by_compute_and_cached_ones_cost_less() -> None:
    sizes = dimensions_of(PRESETS["qwen3-vl-8b"])
    long = works(sizes, "bfloat16", batch=1, visual=1024, prompt=4096, output=1)
    assert {name: work.bound(H100) for name, work in long.items()}["prefill"] == "compute"
    assert set(long) == {"vision", "projector", "prefill"}
    cached = works(sizes, "bfloat16", batch=1, visual=1024, prompt=4096, output=1, cached=4032)
    assert set(cached) == {"prefill"}
    assert cached["prefill"].flops < 0.05 * long["prefill"].flops


def test_a_probe_has_the_measured_peaks_and_those_of_the_datasheet() -> None:
    figures = {"flops_per_s": 7e14, "bytes_per_s": 3e12}
    found = devices({"device": "X", "dtypes": {"bfloat16": {"measured": figures, "datasheet": None}}})
    assert found == {"bfloat16": {"measured": Device("X", 7e14, 3e12)}}


def test_memory_grows_with_batch_context_and_eager_attention() -> None:
    sizes = dimensions_of(PRESETS["qwen3-vl-8b"])

    def needed(batch: int = 1, prompt: int = 1024, attention: str = "sdpa") -> int:
        return sizes.memory_bytes("bfloat16", batch, 196, prompt, 128, attention)

    assert needed() > 2 * sizes.weights
    assert needed() < needed(batch=2) < needed(batch=2, prompt=4096) < needed(2, 4096, "eager")
