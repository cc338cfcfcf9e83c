"""Models in vLLM, as far as they need no vLLM: specifications, tables, memory, a missing or old package."""

from __future__ import annotations

import json
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cuecard import Pair
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.evals.requests import model_revision
from cuecard.gateway.tables import Upstream
from cuecard.models import spec
from cuecard.models.vllm.loading import EngineSettings, check_memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that looks like a checkpoint."""
    made = tmp_path / "my-model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def test_a_number_that_nests_too_deeply_is_refused():
    with pytest.raises(BadInput, match="max_len is not a whole number"):
        spec.parse(f"vllm:a/b?max_len={'[' * 100_000}")


def test_a_specification_has_a_source_and_settings(folder: Path) -> None:
    text = "vllm:Qwen/Qwen3-VL-2B-Instruct?gpu_memory=0.4&max_len=8192&dtype=bfloat16&eager=true"
    settings = {"gpu_memory": 0.4, "max_len": 8192, "dtype": "bfloat16", "eager": True}
    assert spec.parse(text) == spec.VllmCheckpoint("Qwen/Qwen3-VL-2B-Instruct", settings)
    assert spec.parse(f"vllm:{folder}") == spec.VllmCheckpoint(str(folder), {})
    assert spec.parse('vllm:a/b?engine_args={"max_num_seqs":4}').settings == {"engine_args": {"max_num_seqs": 4}}


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("vllm:", "no checkpoint at ''", "vllm:ORG/NAME"),
        ("vllm:nowhere", "no checkpoint at 'nowhere'", "vllm:ORG/NAME"),
        ("vllm:../a", "no checkpoint", "is the path right?"),
        ("vllm:a/b?gpu_memry=0.4", "vllm:a/b.*: unknown key gpu_memry", "did you mean gpu_memory?"),
        ("vllm:a/b?gpu_memory=much", "vllm:a/b.*: gpu_memory is not a number", "a number"),
        ('vllm:a/b?gpu_memory="0.3"', "vllm:a/b.*: gpu_memory is not a number", "a number"),
        ("vllm:a/b?max_len=0.5", "vllm:a/b.*: max_len is not a whole number", "a whole number"),
        ("vllm:a/b?eager=1", "vllm:a/b.*: eager is not true or false", "true or false"),
    ],
)
def test_a_wrong_specification_is_refused_with_what_is_wrong(text: str, words: str, hint: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        spec.parse(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "given", [{"gpu_memory": 0.0}, {"gpu_memory": 1.5}, {"max_len": 0}, {"constraint": "grammar"}], ids=json.dumps
)
def test_a_setting_outside_its_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(given))):
        EngineSettings(**given)


def test_engines_fit_into_one_device_or_are_refused_with_a_share_that_fits() -> None:
    check_memory([("a", 0.9)])
    check_memory([("a", 0.35), ("b", 0.6)])
    with pytest.raises(BadInput, match=r"a \(0.7\) and b \(0.5\) reserve 1.20 .* at most 0.95") as caught:
        check_memory([("a", 0.7), ("b", 0.5)])
    assert "b?gpu_memory=0.25" in caught.value.hint


def test_a_pair_that_does_not_fit_is_refused_before_a_model_is_loaded(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"reserve 1.20 of the device's memory together"):
        Pair(f"vllm:{folder}?gpu_memory=0.6", {"model": f"vllm:{folder}", "gpu_memory": 0.6})


@pytest.mark.parametrize(
    ("large", "words"),
    [
        ({"device": "cpu"}, "'device' does not apply"),
        ({"gpu_memory": "0.3"}, "large.gpu_memory is not a number"),
        ({"gpu_memory": 3.0}, "gpu_memory is 3"),
        ({"max_len": 0}, "max_len is 0"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_model_is_loaded(
    large: dict[str, Any], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "load", lambda *given: pytest.fail("a model was loaded"))
    with pytest.raises(BadInput, match=words):
        Pair(f"vllm:{folder}?gpu_memory=0.3", {"model": f"vllm:{folder}", **large})


def test_without_vllm_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match="needs vllm") as caught:
        spec.load(f"vllm:{folder}")
    assert ".[vllm]" in caught.value.hint


def test_an_old_vllm_is_refused_with_the_version_that_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.31.2+cpu"))
    with pytest.raises(MissingExtra, match=r"vLLM 0.31.2\+cpu is installed, and 0.32 or later is needed"):
        spec.load(f"vllm:{folder}")


def test_a_gateway_passes_the_keys_of_an_engine_on(folder: Path) -> None:
    table = {"model": f"vllm:{folder}", "gpu_memory": 0.4, "max_len": 512, "engine_args": {"max_num_seqs": 4}}
    assert Upstream.model_validate(table).table() == table


@pytest.mark.parametrize(
    ("given", "words", "hint"),
    [
        ({"max_num_sequences": 4}, "vLLM has no engine argument 'max_num_sequences'", "did you mean max_num_seqs?"),
        ({"gpu_memory_utilization": 0.9}, "gpu_memory_utilization is set by gpu_memory", "gpu_memory=…"),
    ],
)
def test_engine_args_are_checked(given: dict[str, Any], words: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = make_dataclass("AsyncEngineArgs", ["model", "gpu_memory_utilization", "max_num_seqs"])
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(AsyncEngineArgs=known))
    with pytest.raises(BadInput, match=words) as caught:
        EngineSettings(engine_args=given).arguments("a/b")
    assert hint in caught.value.hint


def test_settings_are_part_of_a_models_identity_and_memory_is_not(folder: Path) -> None:
    base = model_revision(f"vllm:{folder}")
    assert model_revision({"model": f"vllm:{folder}?gpu_memory=0.4"}) == base
    assert model_revision(f"vllm:{folder}?dtype=float32") != base
    assert model_revision(f"vllm:{folder}?dtype=float32") == model_revision(
        {"model": f"vllm:{folder}", "dtype": "float32"}
    )
