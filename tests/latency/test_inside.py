"""Profiles of tiny models in this process: components that sum to the total, exact outputs, order, resuming, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.latency import readings
from cuecard.latency.inside import profile as profiles
from cuecard.latency.inside import request as decoders
from cuecard.latency.inside.checkpoint import TooBig, loaded, plans, random_model
from cuecard.latency.inside.profile import InProcessProfile, datasheet, profile
from cuecard.latency.inside.request import LostTime, Runner, Watch
from cuecard.latency.roofline import PRESETS
from cuecard.latency.rounds import Grid, ProfileEnd, Workload

CPU = torch.device("cpu")
TINY = InProcessProfile(["qwen3-vl-tiny"], Grid((1, 3), (64,), text_tokens=(8,)), random=True, repeats=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the probe, which takes seconds and is not tested here."""
    monkeypatch.setattr(profiles, "probe", lambda *_: {"device": "cpu", "dtypes": {}})


def profiled(wish: InProcessProfile, out: Path) -> ProfileEnd:
    return profile(wish, out, {"date": "2026-11-25"}, lambda progress: None)


@pytest.fixture(scope="module")
def tiny() -> Runner:
    """A tiny model whose weights give another token at each position, so that a wrong position is detected."""
    plan = plans("qwen3-vl-tiny", random=True, layers=None)[0]
    subject = loaded(plan, CPU, "float32")
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in subject.model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5 * (0.2 if "embed" in name else 1.5), generator=chance)
    return Runner(subject, {1: 64, 2: 64})


def work(**changes: Any) -> Workload:
    usual = {
        "image_px": 64, "text_tokens": 8, "cached_text_tokens": None, "batch": 1, "attention": "sdpa",
        "compiled": False, "output_tokens": 4,
    }  # fmt: skip
    return Workload(**{**usual, **changes})


# --- readings ---------------------------------------------------------------------------------------------------------


def test_a_profile_stores_every_component_of_every_reading(tmp_path: Path) -> None:
    end = profiled(TINY, tmp_path)
    made = list(readings.read(tmp_path))
    assert end.readings == len(made) == 2 * 2 + 2
    assert sum(each.warmup for each in made) == 2
    for each in made:
        assert set(readings.IN_PROCESS_PARTS) - set(each.parts_s) <= (
            {"decode"} if each.point.output_tokens == 1 else set()
        )
        assert sum(each.parts_s.values()) == pytest.approx(each.total_s)
        assert min(each.parts_s.values()) >= 0
        assert each.seen.output_tokens == each.point.output_tokens == len(each.token_times_s or ())
        assert (each.point.visual_tokens, each.point.prompt_tokens) == (4, 14)
    assert readings.about(tmp_path)["config"]["models"]["qwen3-vl-tiny"]["weights"] == "random"


def test_rounds_turn_and_models_alternate(tmp_path: Path) -> None:
    wish = InProcessProfile(["demo-small", "demo-large"], Grid((1, 2), (64,), text_tokens=(8,)), repeats=2)
    profiled(wish, tmp_path)
    order = [(r.round, r.model, r.point.output_tokens) for r in readings.read(tmp_path) if not r.warmup]
    assert [each[1:] for each in order[4:]] == [each[1:] for each in order[:4]][::-1]


def test_a_profile_resumes_where_it_stopped(tmp_path: Path) -> None:
    late = profiled(InProcessProfile(**{**vars(TINY), "max_s": 0.0}), tmp_path)
    assert late.out_of_time
    assert profiled(TINY, tmp_path).readings == 6 - late.readings + (1 if late.readings else 0)
    again = profiled(TINY, tmp_path)
    assert again.readings == 0
    taken = [(r.point, r.round) for r in readings.read(tmp_path) if not r.warmup]
    assert len(taken) == len(set(taken)) == 4


def test_another_grid_is_refused_in_the_same_directory(tmp_path: Path) -> None:
    profiled(TINY, tmp_path)
    with pytest.raises(BadInput, match="holds another run"):
        profiled(InProcessProfile(**{**vars(TINY), "grid": Grid((5,), (64,))}), tmp_path)


def test_slices_are_timed_twice_and_estimate_the_whole(tmp_path: Path) -> None:
    profiled(InProcessProfile(**{**vars(TINY), "layers": 2}), tmp_path)
    timed = {(r.point.layers_timed, r.point.layers_total) for r in readings.read(tmp_path)}
    assert timed == {(1, 4), (2, 4)}
    assert len(readings.usable(tmp_path)) == 4


# --- one request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager", "fused"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_way_to_decode_writes_the_same_tokens(tiny: Runner, attention: str, batch: int) -> None:
    plain = work(output_tokens=6)
    prompt = tiny.prompt(plain)
    expected = tiny.subject.model.generate(
        input_ids=torch.tensor([prompt.ids]),
        **tiny._tensors(prompt, 1, len(prompt.ids)),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
    )[0, len(prompt.ids) :]
    timed = tiny.run(work(output_tokens=6, attention=attention, batch=batch), prompt)
    assert list(timed.tokens) == expected.tolist()
    assert len(set(timed.tokens)) > 3


def test_a_compiled_step_writes_the_same_tokens(tiny: Runner) -> None:
    prompt = tiny.prompt(work())
    plain = tiny.run(work(output_tokens=6, batch=2), prompt)
    decoder = tiny._decoder or decoders.StaticDecoder(tiny.subject.model)
    tiny._steppers[True, True, 2] = decoders.Compiled(decoder, 2, 64, backend="eager")
    for _ in range(2):  # the second run starts without the first request's state
        assert tiny.run(work(output_tokens=6, batch=2, attention="fused", compiled=True), prompt).tokens == plain.tokens


def test_fused_weights_write_the_same_tokens_with_transformers_own_cache(tiny: Runner) -> None:
    model, ids = tiny.subject.model, torch.tensor([[5, 6, 7, 8]])

    def decoded(stepper: decoders.Stepper) -> list[int]:
        cache = DynamicCache()
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        stepper.begin(cache, logits[:, -1].argmax(-1), 0)
        return [int(stepper.step()) for _ in range(4)]

    with torch.inference_mode():
        assert decoded(decoders.ByFused(decoders.StaticDecoder(model))) == decoded(decoders.ByLayers(model))


@pytest.mark.parametrize("image", [64, None])
def test_a_cached_beginning_changes_the_time_and_not_the_tokens(tiny: Runner, image: int | None) -> None:
    whole = work(image_px=image, text_tokens=14)
    cached = work(image_px=image, text_tokens=8, cached_text_tokens=6)
    prompt = tiny.prompt(whole)
    one, other = tiny.run(whole, prompt), tiny.run(cached, prompt)
    assert one.tokens == other.tokens
    assert other.parts_s.get("vision", 0.0) == 0.0


def test_a_language_model_is_timed_and_has_no_image(tmp_path: Path) -> None:
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "text")
    wish = InProcessProfile([str(tmp_path / "text")], Grid((2,), (None,), text_tokens=(8,)), random=True, repeats=1)
    profiled(wish, tmp_path / "p")
    assert all("vision" not in each.parts_s for each in readings.read(tmp_path / "p"))
    seeing = InProcessProfile(**{**vars(wish), "grid": Grid((2,), (64,))})
    with pytest.raises(BadInput, match="no images"):
        profiled(seeing, tmp_path / "q")


def test_a_mixture_of_experts_is_made_and_runs() -> None:
    config = {**PRESETS["qwen3-vl-30b-a3b"]}
    small = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "moe_intermediate_size": 32, "intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2,
        "vocab_size": 512, "rope_parameters": PRESETS["qwen3-vl-tiny"]["text_config"]["rope_parameters"],
    }  # fmt: skip
    small["rope_parameters"] = {**small["rope_parameters"], "mrope_section": [6, 5, 5]}
    config["text_config"] = {**config["text_config"], **small}
    eye = {"hidden_size": 32, "num_heads": 2, "depth": 2, "intermediate_size": 64, "out_hidden_size": 64}
    config["vision_config"] = {**config["vision_config"], **eye, "deepstack_visual_indexes": [0]}
    from transformers import AutoConfig

    model = random_model(AutoConfig.for_model(config.pop("model_type"), **config), CPU, "float32")
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_time_outside_of_parts_is_the_gap_and_nothing_is_lost() -> None:
    watch = Watch(CPU)
    with watch.part("prefill"):
        sum(range(10_000))
    sum(range(10_000))
    watch.split("prefill", {"vision": 1e-6})
    total = watch.stop()
    assert set(watch.parts_s) == {"gap", "prefill", "vision"}
    assert sum(watch.parts_s.values()) == pytest.approx(total)
    assert watch.parts_s["gap"] > 0


def test_parts_that_are_more_than_the_wall_clock_are_an_error() -> None:
    watch = Watch(CPU)
    with watch.part("decode"):
        pass
    watch.parts_s["decode"] += 1.0
    with pytest.raises(LostTime, match="decode"):
        watch.stop()


def test_a_known_gpu_has_a_datasheet_and_a_longer_name_is_not_taken_for_a_shorter() -> None:
    sxm, pcie = datasheet("NVIDIA H100 80GB HBM3", "bfloat16"), datasheet("NVIDIA H100 PCIe", "bfloat16")
    assert sxm is not None
    assert pcie is not None
    assert sxm["bytes_per_s"] > pcie["bytes_per_s"]
    assert datasheet("NVIDIA L40S", "bfloat16") != datasheet("NVIDIA L4", "bfloat16")
    assert datasheet("cpu", "float32") is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_models_that_do_not_fit_are_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "free_bytes", lambda device: 20 << 30)
    monkeypatch.setattr(profiles, "loaded", lambda *_: pytest.fail("it was loaded"))
    wish = InProcessProfile(["qwen3-vl-2b", "qwen3-vl-8b"], Grid((8,), (448,)), random=True, dtypes=["bfloat16"])
    with pytest.raises(TooBig, match=r"qwen3-vl-8b 1[789]\.\d GB"):
        profiled(wish, tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (InProcessProfile(["qwen3-vl-2b"], TINY.grid), "preset without weights"),
        (InProcessProfile(["qwen3-vl-3b"], TINY.grid, random=True), "unknown model"),
        (InProcessProfile(["demo-smal"], TINY.grid), "unknown model"),
        (InProcessProfile(["http://localhost:1/v1#a"], TINY.grid), "does not run in this process"),
        (InProcessProfile(["demo-small"], TINY.grid, dtypes=["int4"]), "unknown dtype"),
        (InProcessProfile(["demo-small"], TINY.grid, device="abacus"), "no device 'abacus'"),
        (InProcessProfile(["demo-small"], TINY.grid, device="cuda:77"), "no device 'cuda:77'"),
        (InProcessProfile(["demo-small", "demo-small"], TINY.grid), "same name"),
        (InProcessProfile(["demo-small"], TINY.grid, layers=2), "not run in slices"),
        (InProcessProfile(["qwen3-vl-2b"], TINY.grid, random=True, layers=4), "too thin"),
        (InProcessProfile(["demo-small"], Grid((5000,), (64,))), "more than demo-small reads at once"),
    ],
)
def test_invalid_profiles_are_refused_in_one_line(wish: InProcessProfile, message: str, tmp_path: Path) -> None:
    with pytest.raises(CuecardError, match=message):
        profiled(wish, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_misspelt_name_gets_the_nearest_model_or_preset_as_a_hint() -> None:
    for wrong, right in {"demo-smal": "demo-small", "qwen3-vl-8": "qwen3-vl-8b"}.items():
        with pytest.raises(BadInput) as refused:
            plans(wrong, random=True, layers=None)
        assert refused.value.hint == f"did you mean {right}?"
