"""The committed studies of Qwen3-VL, end to end: small files in the benchmarks' formats, two scripted servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_hub import ROWS, parquet

from cuecard.evals.arm import parse_all
from cuecard.evals.study import read
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Received

FOLDER = Path(__file__).parents[2] / "studies" / "qwen3-vl"
STUDIES = sorted(FOLDER.glob("*.toml"))
ANSWERS = {"letter": "A", "yes or no": "yes", "number": "4", "word": "spain"}
REASONING = "The picture shows it. It is plain to see."


def says(request: Received) -> Completion:
    """An answer of the kind that the instruction names; reasoning in prose first, if the instruction requests it."""
    text = json.dumps(request.body["messages"][-1])
    answer = next((message for words, message in ANSWERS.items() if words in text), "none")
    if "Think step by step" in text and REASONING not in text:
        return Completion(f"{REASONING}\n\nAnswer: {answer}")
    return Completion(answer)


def rows(name: str) -> list[dict[str, Any]]:
    """Two questions of a benchmark; for mmbench, its rows of rotations unchanged."""
    if name == "mmbench":
        return ROWS[name]
    first = ROWS[name][0]
    known = [column for column in ("id", "index", "questionId", "pid") if column in first]
    return [first, {**first, **{column: type(first[column])(7) for column in known}}]


def local(study: Path, folder: Path, urls: dict[str, str]) -> Path:
    """Write the study with files for its benchmarks and these servers' URLs, otherwise unchanged; returns the file."""
    text = study.read_text(encoding="utf-8")
    for name in tomllib.loads(text)["tasks"]:
        path = parquet(folder / f"{name}.parquet", rows(name))
        text = text.replace(f'"{name}"', json.dumps(f"{name}:{path}"))
    for address, url in urls.items():
        text = text.replace(address, url)
    made = folder / study.name
    made.write_text(text.replace("runs/", f"{folder}/"), encoding="utf-8")
    return made


async def cuecard(*arguments: object) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cuecard", *map(str, arguments), stdout=-1, stderr=-1,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    out, message = await process.communicate()
    return process.returncode, out.decode(), message.decode()


def test_the_three_studies_differ_in_their_models_and_names_alone():
    assert [study.stem for study in STUDIES] == ["2b-4b", "2b-8b", "4b-8b"]
    texts = [re.sub(r"\b[248]B\b", "NB", re.sub(r"\db-\db", "nb-nb", study.read_text())) for study in STUDIES]
    assert len(set(texts)) == 1
    for study in map(read, STUDIES):
        assert {role: spec["model"].split("#")[1][:15] for role, spec in study.models.items()} == {
            "small": "Qwen/Qwen3-VL-" + study.name.split("-")[2][0].upper(),
            "large": "Qwen/Qwen3-VL-" + study.name.split("-")[3][0].upper(),
        }
        assert len(parse_all(study.arms)) == len(study.arms)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_study_is_estimated_then_runs_whole_against_two_servers(tmp_path):
    study = FOLDER / "2b-8b.toml"
    names = {role: spec["model"].split("#")[1] for role, spec in read(study).models.items()}
    servers = {role: MockServer(says, models=[name], prefix_cache=True) for role, name in names.items()}
    async with servers["small"] as small, servers["large"] as large:
        urls = {"http://localhost:8001/v1": small, "http://localhost:8002/v1": large}
        file = local(study, tmp_path, urls)
        code, out, message = await cuecard("study", file, "--dry-run", "--json")
        assert code == 0, message
        result = json.loads(out)
        assert len(result["tasks"]) == 9
        assert result["total"]["calls"] > 100
        assert not any(server.received for server in servers.values()), "nothing is paid for an estimate"
        code, out, message = await cuecard("study", file, "--limit", 2, "--json")
        assert code == 0, message
    tasks = json.loads(out)["tasks"]
    for name, task in tasks.items():
        assert task["complete"], name
        for arm, result in task["arms"].items():
            assert result["answered"] == task["items"], (name, arm)
            assert result["errors"] == 0 or "placebo=foreign" in arm, (name, arm)
            assert sum(result["routes"].values()) == task["items"]
    by = {name.partition(":")[0]: task for name, task in tasks.items()}
    assert by["pope"]["arms"]["mutual"]["pope"]["accuracy"] == 1
    assert by["mmbench"]["arms"]["mutual"]["circular"] == {"groups": 1, "accuracy": 0}
    assert by["infovqa"]["arms"]["reason:small"]["accuracy"] == 1
