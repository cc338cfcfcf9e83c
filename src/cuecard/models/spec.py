"""Model specifications: embedded, `hf:ORG/NAME`, a directory, a file, a URL#NAME, `vllm:…`; and TOML tables."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput, MissingExtra, did_you_mean
from cuecard.models.base import Model
from cuecard.models.openai.families import ServerSettings
from cuecard.models.vllm import loading as vllm_loading

EMBEDDED = ("demo-small", "demo-large")
SERVED_KEYS: Mapping[str, type] = {key: kind for key, kind in disk.kinds_of(ServerSettings).items() if key != "name"}
LOCAL_KEYS: Mapping[str, type] = {"device": str, "dtype": str, "revision": str, "prefix_cache_mib": float}
KEYS: Mapping[str, type] = {"model": str, **LOCAL_KEYS, **SERVED_KEYS, **vllm_loading.KEYS}
"""Allowed keys of a model's table, and their types."""


@dataclass(frozen=True)
class Embedded:
    """A checkpoint that ships with cuecard."""

    name: str

    @property
    def folder(self) -> Path:
        return Path(str(files("cuecard") / "weights" / self.name))


@dataclass(frozen=True)
class Checkpoint:
    """A directory, or a repository on the Hugging Face hub."""

    source: str


@dataclass(frozen=True)
class GgufFile:
    """A language model in one file, in llama.cpp's format; its weights are dequantised when it is loaded."""

    path: Path


@dataclass(frozen=True)
class Served:
    """A model behind an OpenAI-compatible server."""

    base_url: str
    name: str


@dataclass(frozen=True)
class Recording:
    """A file of recorded calls."""

    path: Path


@dataclass(frozen=True)
class VllmCheckpoint:
    """A directory, or a repository of the hub, for vLLM in this process; `settings`: those in the specification."""

    source: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.source.rstrip("/").split("/")[-1]


Spec = Embedded | Checkpoint | GgufFile | Served | Recording | VllmCheckpoint


def parse(text: str) -> Spec:
    """The model that a specification names. Raises BadInput with the nearest valid specification."""
    if text in EMBEDDED:
        return Embedded(text)
    if text.startswith("hf:") and re.fullmatch(r"[\w.-]+/[\w.-]+", text[3:]):
        return Checkpoint(text[3:])
    if text.startswith("vllm:"):
        return _in_vllm(text)
    if text.startswith(("http://", "https://")):
        url, _, name = text.partition("#")
        if not name:
            raise BadInput(f"{text} does not say which model", f"write {url.rstrip('/')}#NAME, as the server calls it")
        return Served(url, name)
    if os.path.isdir(text):
        if not (Path(text) / "config.json").exists():
            raise BadInput(
                f"{text} is a directory without a config.json", "give a directory in the Hugging Face layout"
            )
        return Checkpoint(text)
    if text.endswith(".gguf") and os.path.isfile(text):
        return GgufFile(Path(text))
    if text.endswith(".jsonl") and os.path.isfile(text):
        return Recording(Path(text))
    forms = "use demo-small, demo-large, hf:ORG/NAME, a directory, a .gguf file, vllm:…, or http://HOST:PORT/v1#NAME"
    raise BadInput(f"unknown model {text[:200]!r}", did_you_mean(text, EMBEDDED, forms))


def _in_vllm(text: str) -> VllmCheckpoint:
    source, _, query = text.removeprefix("vllm:").partition("?")
    source = source.removeprefix("hf:")
    if not (os.path.isdir(source) and (Path(source) / "config.json").exists()):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise BadInput(f"no checkpoint at {source[:200]!r}", "write vllm:ORG/NAME, or vllm: and a directory")
        if source.startswith("."):
            raise BadInput(f"no checkpoint at {source[:200]!r}", "is the path right?")
    return VllmCheckpoint(source, vllm_loading.parsed(query, text[:200]))


def check_memory(given: Iterable[str | Mapping[str, Any]]) -> None:
    """Raises BadInput if these models, as far as they run in vLLM in this process, do not fit into one device."""
    shares = []
    for each in given:
        table = dict(each) if isinstance(each, Mapping) else {"model": each}
        name = table.pop("model", None)
        if isinstance(name, str) and isinstance(checkpoint := parse(name), VllmCheckpoint):
            shares.append((name.partition("?")[0], _engine(checkpoint, table).gpu_memory))
    vllm_loading.check_memory(shares)


def _engine(checkpoint: VllmCheckpoint, table: Mapping[str, Any]) -> vllm_loading.EngineSettings:
    return vllm_loading.EngineSettings(**{**checkpoint.settings, **_only(table, *vllm_loading.KEYS)})


def load(spec: str | Mapping[str, Any], role: str = "") -> Model:
    """Load the model that a specification or a TOML table names. Raises BadInput, MissingExtra, ModelError."""
    table = _table(spec, role)
    match parse(table.pop("model")):
        case Embedded() as embedded:
            if not (embedded.folder / "model.safetensors").exists():
                raise BadInput(f"the weights of {embedded.name} are not here", "install Cuecard again")
            return _local(
                str(embedded.folder), name=embedded.name, **_only(table, "device", "dtype", "prefix_cache_mib")
            )
        case Checkpoint(source):
            return _local(source, name=source.rstrip("/").split("/")[-1], **_only(table, *LOCAL_KEYS))
        case GgufFile(path):
            return _local(str(path), name=path.stem, **_only(table, "device", "dtype", "prefix_cache_mib"))
        case Served(url, name):
            from cuecard.models.openai import OpenAIModel

            if "api_key" in table:
                table["api_key"] = secret(table["api_key"])
            return OpenAIModel(url, name, **_only(table, *SERVED_KEYS))
        case VllmCheckpoint() as checkpoint:
            from cuecard.models.vllm.model import VllmModel

            return VllmModel.load(checkpoint.name, checkpoint.source, _engine(checkpoint, table))
        case Recording(path):
            from cuecard.models.replay import RecordedModel

            return RecordedModel(path, **_only(table))


def _table(spec: str | Mapping[str, Any], role: str) -> dict[str, Any]:
    table = dict(spec) if isinstance(spec, Mapping) else {"model": spec}
    disk.check_table(table, KEYS, f"{role}." if role else "")
    if not table.get("model"):
        raise BadInput(f"no model is named{f' for {role}' if role else ''}", 'write model = "…"')
    return table


def load_all(given: Mapping[str, str | Mapping[str, Any]]) -> dict[str, Model]:
    """Load models, by role. Raises as `load`; then the models that had been loaded are closed."""
    check_memory([_table(each, role) for role, each in given.items()])
    loaded: dict[str, Model] = {}
    try:
        for role, each in given.items():
            loaded[role] = load(each, role)
    except BaseException:
        with ThreadPoolExecutor(1) as thread:  # a loop may run here
            thread.submit(asyncio.run, _closed(loaded.values())).result()
        raise
    return loaded


async def _closed(models: Iterable[Model]) -> None:
    await asyncio.gather(*(model.aclose() for model in models), return_exceptions=True)


def anywhere(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """The table of a model with an absolute path, for processes with other working directories. Raises BadInput."""
    settings = dict(given) if isinstance(given, Mapping) else {"model": given}
    match parse(settings["model"]):
        case Checkpoint() | GgufFile() | Recording():
            path = Path(settings["model"])
            settings["model"] = str(path.absolute()) if path.exists() else settings["model"]
        case VllmCheckpoint(source, own) if Path(source).is_dir():
            settings = {**own, **settings, "model": f"vllm:{Path(source).absolute()}"}
    return settings


def pair_file(path: Path) -> dict[str, dict[str, Any]]:
    """The models in a TOML file, by role: one table per role, at least `[small]` and `[large]`. Raises BadInput."""
    tables = disk.read_toml(path)
    if missing := {"small", "large"} - set(tables):
        raise BadInput(f"{path} has no [{min(missing)}] table", "one table a model: [small] and [large]")
    for role, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(f"{role} in {path} is not a table", "write [small] and, under it, model = …")
    return tables


def secret(text: str) -> str:
    """The text with each `${NAME}` replaced by that environment variable. Raises BadInput if it is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadInput(f"the environment variable {match[1]} is not set", f"export {match[1]}=…")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _local(source: str, **settings: Any) -> Model:
    try:
        from cuecard.models.local.model import LocalModel

        return LocalModel.load(source, **settings)
    except ModuleNotFoundError as error:
        extra = "embedded" if settings["name"] in EMBEDDED else "local"
        raise MissingExtra(
            f"{settings['name']} runs in this process, which needs {error.name}",
            f"pip install '.[{extra}]' in a checkout",
        ) from error


def _only(settings: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    if extra := set(settings) - set(keys):
        raise BadInput(
            f"{min(extra)!r} does not apply to this kind of model", f"it takes: {', '.join(('model', *keys))}"
        )
    return dict(settings)
