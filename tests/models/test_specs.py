"""Model specifications: accepted forms, and errors with a hint for all others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard import Pair
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.models import spec
from cuecard.models.openai import OpenAIModel
from cuecard.models.replay import RecordedModel, RecordingModel, Says, ScriptedModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that looks like a checkpoint."""
    made = tmp_path / "my-model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    RecordingModel(ScriptedModel("tiny", [Says("two")]), tmp_path / "calls.jsonl")
    return tmp_path / "calls.jsonl"


def test_every_form_of_a_specification_is_understood(folder: Path, recording: Path) -> None:
    assert spec.parse("demo-small") == spec.Embedded("demo-small")
    assert spec.parse("hf:Qwen/Qwen3-VL-2B-Instruct") == spec.Checkpoint("Qwen/Qwen3-VL-2B-Instruct")
    assert spec.parse(str(folder)) == spec.Checkpoint(str(folder))
    assert spec.parse("http://localhost:8000/v1#org/name") == spec.Served("http://localhost:8000/v1", "org/name")
    assert spec.parse("https://host/v1#a#b") == spec.Served("https://host/v1", "a#b")
    assert spec.parse(str(recording)) == spec.Recording(recording)


def test_the_embedded_checkpoints_are_there() -> None:
    assert all((spec.Embedded(name).folder / "config.json").exists() for name in spec.EMBEDDED)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("demo-smal", "unknown model 'demo-smal'", "did you mean demo-small?"),
        ("demo", "unknown model 'demo'", "demo"),
        ("gpt-4o", "unknown model", "http://HOST:PORT/v1#NAME"),
        ("hf:Qwen", "unknown model", "hf:ORG/NAME"),
        ("hf:a/b/c", "unknown model", "hf:ORG/NAME"),
        ("hf:../etc/passwd", "unknown model", "hf:ORG/NAME"),
        ("http://localhost:8000/v1", "does not say which model", "write http://localhost:8000/v1#NAME"),
        ("http://localhost:8000/v1/#", "does not say which model", "write http://localhost:8000/v1#NAME"),
        ("missing.jsonl", "unknown model", "a directory"),
        pytest.param("x" * 5000, "unknown model 'x+'", "a directory", id="very long"),
        ("nul\0byte", "unknown model", "a directory"),
    ],
)
def test_a_specification_that_means_nothing_is_refused_with_what_would_work(text: str, words: str, hint: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        spec.parse(text)
    assert hint in caught.value.hint
    assert len(str(caught.value)) < 400


def test_a_directory_that_holds_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"without a config.json"):
        spec.parse(str(tmp_path))


def test_a_served_model_is_made_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    table = {
        "model": "http://localhost:8000/v1#qwen3-vl-8b",
        "api_key": "${MY_KEY}",
        "prefill": True,
        "prefix_cache": True,
        "scoring": True,
        "images": True,
        "logprobs": False,
        "family": "plain",
        "timeout_s": 5,
        "extra_body": {"top_k": 1},
    }
    model = spec.load(table, "large")
    assert isinstance(model, OpenAIModel)
    assert model.name == "qwen3-vl-8b"
    able = model.abilities
    assert (able.prefix_sessions, able.scoring, able.images, able.logprobs) == (True, True, True, False)
    assert model._server._server._headers["authorization"] == "Bearer sesame"
    asyncio.run(model.aclose())


def test_a_recording_is_a_model(recording: Path) -> None:
    assert isinstance(spec.load(str(recording)), RecordedModel)


def test_a_checkpoint_is_a_model(checkpoints: Callable[[str], Path]) -> None:
    model = spec.load({"model": str(checkpoints("qwen3")) + "/", "device": "cpu", "dtype": "float32"})
    assert model.name == "qwen3"
    asyncio.run(model.aclose())


SERVED = "http://localhost:8000/v1#name"


@pytest.mark.parametrize(
    ("table", "words", "hint"),
    [
        ({}, "no model is named for small", "write model"),
        ({"model": ""}, "no model is named for small", "write model"),
        ({"model": 3}, "small.model is not a text", "write model as"),
        ({"model": SERVED, "api-key": "x"}, "unknown key small.api-key", "did you mean api_key?"),
        ({"model": SERVED, "tempo": 1}, "unknown key small.tempo", "there are: model"),
        ({"model": SERVED, "api_key": 12345}, "small.api_key is not a text", "as a text"),
        ({"model": SERVED, "prefill": "yes"}, "small.prefill is not true or false", "as true or false"),
        ({"model": SERVED, "timeout_s": "5"}, "small.timeout_s is not a number", "as a number"),
        ({"model": SERVED, "timeout_s": True}, "small.timeout_s is not a number", "as a number"),
        ({"model": SERVED, "extra_body": []}, "small.extra_body is not a table", "as a table"),
        ({"model": SERVED, "family": "qwem"}, "no model family 'qwem'", "auto"),
        ({"model": SERVED, "device": "cpu"}, "'device' does not apply to this kind of model", "api_key"),
        ({"model": "demo-small", "api_key": "x"}, "'api_key' does not apply", "device"),
        ({"model": "demo-small", "revision": "x"}, "'revision' does not apply", "device"),
        ({"model": "demo-small", "dtype": "float8"}, "unknown dtype 'float8'", "float32"),
        ({"model": SERVED, "api_key": "${NO_SUCH_KEY}"}, "the environment variable NO_SUCH_KEY is not set", ""),
        ({"model": "http://:99/v1#name"}, "not the URL of a server", "http://localhost:8000/v1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_whole_at_the_start(table: dict[str, Any], words: str, hint: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        spec.load(table, "small")
    assert hint in caught.value.hint
    assert "12345" not in str(caught.value)


def test_a_recording_takes_no_settings(recording: Path) -> None:
    with pytest.raises(BadInput, match="'device' does not apply"):
        spec.load({"model": str(recording), "device": "cpu"})


@pytest.mark.parametrize(
    ("package", "given", "extra"), [("tokenizers", "demo-small", "embedded"), ("transformers", "checkpoint", "local")]
)
def test_a_missing_package_is_named(
    package: str, given: str, extra: str, checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(checkpoints("qwen3")) if given == "checkpoint" else given
    for name in [name for name in sys.modules if name.startswith("cuecard.models.local")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=f"needs {package}") as caught:
        spec.load(model)
    assert f"pip install '.[{extra}]' in a checkout" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "value"),
    [("plain", "plain"), ("${A_KEY}", "one"), ("x-${A_KEY}-${B_KEY}", "x-one-two"), ("$A_KEY", "$A_KEY")],
)
def test_secrets_come_from_the_environment(text: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "one")
    monkeypatch.setenv("B_KEY", "two")
    assert spec.secret(text) == value


# --- files that name a pair -------------------------------------------------------------------------------------------


def test_a_pair_file_names_a_model_a_role(tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    path.write_text('[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n[drafter]\nmodel = "hf:a/b"\n')
    assert spec.pair_file(path) == {
        "small": {"model": "demo-small"},
        "large": {"model": "demo-large"},
        "drafter": {"model": "hf:a/b"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[small]\nmodel = "a"\n', r"has no \[large\] table"),
        ("", r"has no \[large\] table"),
        ("[small\n", "is not valid TOML: .*line 1"),
        ("small = 1\nlarge = 2\n", "small in .* is not a table"),
        ("[small]\n[small]\n", "is not valid TOML"),
        ('small = "demo-small"\n[large]\n', "small in .* is not a table"),
        (b"\xff\xfe", "is not valid TOML"),
    ],
)
def test_a_pair_file_that_is_broken_is_refused(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=words):
        spec.pair_file(path)


def test_a_pair_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(BadInput, match="cannot read"):
            spec.pair_file(path)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_specification_or_refused(text: str) -> None:
    try:
        spec.parse(text)
    except BadInput:
        return


async def test_models_are_closed_if_one_of_them_does_not_load(monkeypatch):
    closed = []

    class Made:
        async def aclose(self) -> None:
            closed.append("small")

    def load(given, role):
        if role == "large":
            raise BadInput("it does not load")
        return Made()

    monkeypatch.setattr(spec, "load", load)
    with pytest.raises(BadInput, match="it does not load"):
        Pair("demo-small", "demo-large")
    assert closed == ["small"]
