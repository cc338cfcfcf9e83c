"""`cuecard eval` and `cuecard study` in subprocesses: killed, interrupted, resumed, refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.domain.errors import BadInput
from cuecard.evals.study import ARMS, Study, read
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Received

pytestmark = pytest.mark.slow

MODELS = ("qwen3-small", "qwen3-large")
QUESTIONS = 40
CALLS = 5 * QUESTIONS
"""Per question: a short and a reasoning call of both models, and a read call."""


def identity(model: str, text: str, thinks: bool) -> tuple[str, str, str]:
    """(model, mode, question) of a call."""
    number = re.search(r"number (\d+)", text)
    assert number
    mode = "reason" if thinks else "read" if "End of the draft." in text else "short"
    return model, mode, number[1]


@dataclass
class Bench:
    """A server for both models, a file of questions, and the command."""

    url: str
    folder: Path
    server: MockServer
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Every request, in the order of arrival."""

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def command(self, *more: str) -> list[str]:
        models = [f"--{role}={self.url}#{model}" for role, model in zip(("small", "large"), MODELS, strict=True)]
        arguments = ["eval", f"jsonl:{self.folder / 'questions.jsonl'}", f"--out={self.out}", *models, *more]
        return [sys.executable, "-m", "cuecard", *arguments]

    async def start(self, *more: str, before: Sequence[str] = ()) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
        command = [*before, *self.command(*more)]
        return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)

    async def end(self, *more: str, before: Sequence[str] = ()) -> tuple[int | None, str, str]:
        """Run the command to its end; returns exit code, standard output, standard error."""
        process = await self.start(*more, before=before)
        out, output = await process.communicate()
        return process.returncode, out.decode(), output.decode()

    async def until(self, requests: int, process: asyncio.subprocess.Process) -> None:
        while len(self.seen) < requests and process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def stored(self) -> set[tuple[str, str, str]]:
        """The calls in the store, read with plain SQLite."""
        if not (self.out / "run.sqlite").exists():
            return set()
        with sqlite3.connect(self.out / "run.sqlite") as connection:
            rows = connection.execute("SELECT model, mode, record FROM calls").fetchall()
        connection.close()
        texts = [json.loads(record)["prompt"]["turns"][-1]["text"] for _, _, record in rows]
        return {identity(model, text, mode == "reason") for (model, mode, _), text in zip(rows, texts, strict=True)}

    def answers(self) -> Counter[str]:
        """The number of answers by arm."""
        with sqlite3.connect(self.out / "run.sqlite") as connection:
            found = connection.execute("SELECT arm, count(*) FROM answers GROUP BY arm").fetchall()
        connection.close()
        return Counter(dict(found))


@asynccontextmanager
async def bench(folder: Path, questions: int = QUESTIONS, delay_s: float = 0.004) -> AsyncIterator[Bench]:
    lines = [
        {"id": str(number), "question": f"This is number {number}. Which?", "options": ["red", "blue"], "answer": "A"}
        for number in range(questions)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def reply(request: Received) -> Completion:
        body: dict[str, Any] = request.body
        text = " ".join(str(message["content"]) for message in body["messages"] if message["role"] == "user")
        thinks = bool((body.get("chat_template_kwargs") or {}).get("enable_thinking"))
        made.seen.append(identity(body["model"], text, thinks))
        short = "B" if body["model"] == MODELS[0] else "A"
        return Completion("A" if thinks else short, "It is red, so it is A." if thinks else "", delay_s=delay_s)

    server = MockServer(reply, models=MODELS)
    async with server as url:
        made = Bench(url, folder, server)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_killed_twenty_times_a_run_loses_nothing_makes_nothing_twice_and_skips_no_question(tmp_path):
    chance = Random(0)
    async with bench(tmp_path) as lab:
        for kill in range(20):
            before, asked_before = lab.stored(), len(lab.seen)
            process = await lab.start("--at-once=4")
            await lab.until(asked_before + chance.randint(1, 14), process)
            await asyncio.sleep(chance.random() * 0.02)
            assert process.returncode is None, (kill, await process.communicate())
            process.kill()
            await process.communicate()
            assert before <= lab.stored(), "what was stored is there"
            assert not before & set(lab.seen[asked_before:]), "what was stored is not asked again"
        assert 20 < len(lab.stored()) < CALLS
        before, asked_before = lab.stored(), len(lab.seen)
        code, _, output = await lab.end("--at-once=4")
        assert code == 0, output
        assert not before & set(lab.seen[asked_before:])
    assert len(lab.stored()) == CALLS == len(set(lab.seen))
    assert lab.answers() == Counter(dict.fromkeys(ARMS, QUESTIONS))
    result = json.loads((lab.out / "summary.json").read_text())
    [task] = result["tasks"].values()
    assert (task["items"], task["complete"]) == (QUESTIONS, True)
    assert task["arms"]["mutual"]["accuracy"] == 1.0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_or_terminated_run_reports_it_in_one_line_and_resumes(tmp_path, sent, code):
    async with bench(tmp_path) as lab:
        process = await lab.start()
        await lab.until(30, process)
        process.send_signal(sent)
        _, output = await process.communicate()
        assert process.returncode == code
        kept = f"{len(lab.stored())} calls and {sum(lab.answers().values())} answers are stored in {lab.out}"
        assert output.decode().splitlines()[-1] == f"stopped: {kept}; the same command resumes it"
        assert "Traceback" not in output.decode()
        stored, asked = lab.stored(), len(lab.seen)
        assert asked - 8 <= len(stored), "only calls under way are lost"
        code, out, said_now = await lab.end()
        assert code == 0, said_now
        assert "going on with" in said_now
        assert "mutual" in out
        assert not stored & set(lab.seen[asked:])


async def test_a_second_process_another_configuration_and_a_lost_server_are_refused_in_one_line(tmp_path):
    async with bench(tmp_path, delay_s=0.1) as lab:
        first = await lab.start()
        await lab.until(5, first)
        code, _, output = await lab.end()
        assert (code, output.count("\n")) == (2, 1)
        assert f"error: another process (process {first.pid}) is at work in" in output
        first.send_signal(signal.SIGINT)
        await first.communicate()
        code, _, output = await lab.end("--budget=99")
        assert (code, output.count("\n")) == (2, 1)
        assert "policy.limits.reasoning_tokens is 2048 there, 99 here" in output
        code, _, output = await lab.end("--strategies=mutal")
        assert (code, "did you mean mutual?" in output) == (2, True)
    code, _, output = await lab.end()
    assert code == 2
    assert "error: qwen3-" in output.splitlines()[-1]
    assert "is lost" in output


async def test_a_run_that_cannot_write_ends_with_a_message_and_resumes_once_there_is_room(tmp_path):
    async with bench(tmp_path) as lab:
        code, _, output = await lab.end("--at-once=4", before=("sh", "-c", 'ulimit -f 400; exec "$@"', "-"))
        assert (code, "Traceback" in output) == (2, False), output
        assert f"{lab.out / 'run.sqlite'} cannot be read or written" in output.splitlines()[-1]
        before, asked_before = lab.stored(), len(lab.seen)
        assert 0 < len(before) < CALLS
        code, _, output = await lab.end("--at-once=4")
        assert code == 0, output
        assert not before & set(lab.seen[asked_before:])
        assert lab.answers() == Counter(dict.fromkeys(ARMS, QUESTIONS))
        code, _, output = await lab.end("--out=/proc/run")
        assert (code, output.count("\n")) == (2, 1)
        assert "cannot write into /proc/run" in output


async def test_a_run_grows_by_arms_and_questions_and_makes_only_the_calls_that_are_new(tmp_path):
    async with bench(tmp_path) as lab:
        code, _, output = await lab.end("--strategies=short:small,short:large", "--limit=10")
        assert (code, len(lab.seen)) == (0, 20), output
        code, out, output = await lab.end("--strategies=mutual", "--limit=15", "--json")
        assert code == 0, output
        assert f"going on with {lab.out}; new: arm mutual; new: 15 instead of 10 questions of each task" in output
        assert len(lab.seen) == len(set(lab.seen)) == 15 * 4
        assert lab.answers() == Counter(dict.fromkeys(("short:small", "short:large", "mutual"), 15))
        [task] = json.loads(out)["tasks"].values()
        assert (task["items"], task["complete"]) == (15, True)
        code, _, output = await lab.end("--limit=12", "--strategies=mutual")
        assert (code, "asks 15 questions of each task, not only 12" in output) == (2, True)


async def test_a_dry_run_estimates_the_most_it_can_cost_and_after_some_questions_what_it_will(tmp_path):
    async with bench(tmp_path) as lab:
        code, out, output = await lab.end("--dry-run", "--json", "--budget=50")
        assert code == 0, output
        result = json.loads(out)
        assert (result["kind"], result["total"]["calls"], result["total"]["seconds"]) == ("estimated", CALLS, None)
        assert result["total"]["completion_tokens"] == QUESTIONS * (2 * 51 + 3)
        assert lab.seen == [], "no call is made"
        assert not lab.out.exists()
        process = await lab.start()
        await lab.until(100, process)
        process.send_signal(signal.SIGINT)
        await process.communicate()
        _, out, _ = await lab.end("--dry-run", "--json")
        result = json.loads(out)
        [task] = result["tasks"].values()
        assert "stored questions" in task["basis"]
        assert 0 < task["left"] < QUESTIONS
        assert task["calls"] == 5 * task["left"]
        assert result["total"]["seconds"] > 0


# --- study files ------------------------------------------------------------------------------------------------------

FILE = """
name = "a study"
out = "{out}"
tasks = ["jsonl:{folder}/questions.jsonl"]
arms = ["short:large", "mutual/accept=agree", "transfer/placebo=empty"]
limit = 6

[small]
model = "{url}#qwen3-small"
api_key = "secret"
[large]
model = "{url}#qwen3-large"
"""


async def test_a_study_is_run_from_its_file_and_its_secrets_are_kept_out_of_the_run(tmp_path):
    async with bench(tmp_path) as lab:
        file = tmp_path / "study.toml"
        file.write_text(FILE.format(out=lab.out, folder=tmp_path, url=lab.url))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cuecard", "study", str(file), "--json", stdout=-1, stderr=-1
        )
        out, output = await process.communicate()
        assert process.returncode == 0, output
    [task] = json.loads(out)["tasks"].values()
    assert task["items"] == 6
    assert list(task["arms"]) == ["short:large", "mutual/accept=agree", "transfer/placebo=empty"]
    assert all("secret" not in (lab.out / name).read_text() for name in ("run.json", "summary.json"))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (("limit = 6", "limt = 6"), "unknown key limt", "did you mean limit"),
        (("limit = 6", 'limit = "6"'), "limit is not a whole number", "write limit as"),
        (("limit = 6", "limit = 0"), "at least 1", ""),
        (("limit = 6", "sample = 6"), "how many are drawn", "limit"),
        (("[large]", "[huge]"), "no large model", ""),
        (('"mutual/', '"mutal/'), "unknown strategy", "did you mean mutual"),
        (('model = "URL#qwen3-large"', ""), "[large] names no model", ""),
        (("tasks = [", "tasks = [["), "not valid TOML", ""),
        (("tasks = [", "tasks = [3, "), "tasks is not a list of texts", ""),
    ],
)
def test_a_study_that_is_wrong_is_refused_before_anything_is_loaded(tmp_path, change, message, hint):
    text = FILE.format(out="out", folder="folder", url="URL")
    text = text.replace(*change).replace("URL", "http://127.0.0.1:1/v1")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(BadInput) as refused:
        read(tmp_path / "study.toml")
    assert message in str(refused.value)
    assert hint in refused.value.hint


def test_one_call_at_a_time_where_a_model_runs_in_this_process():
    both = {"small": "demo-small", "large": "demo-large"}
    served = {role: f"http://localhost:1/v1#{role}" for role in both}
    mixed = both | {"large": served["large"]}
    assert [Study(models, ["boards"]).slots for models in (both, served, mixed)] == [1, 8, 1]
    assert Study(both, ["boards"], at_once=3).slots == 3


def test_several_calls_at_once_on_a_local_model_are_decoded_together_and_live_is_refused_then():
    both = {"small": "demo-small", "large": "http://localhost:1/v1#large"}
    assert [Study(both, ["boards"], at_once=most).batched for most in (None, 1, 2)] == [False, False, True]
    assert not Study(dict.fromkeys(both, both["large"]), ["boards"], at_once=9).batched
    with pytest.raises(BadInput, match="times one question after the other"):
        Study(both, ["boards"], at_once=2, live=True)


def test_a_rule_that_lacks_its_table_is_refused_before_a_server_is_probed(tmp_path):
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "Is it?", "answer": "yes"}) + "\n")
    models = [f"--{role}=http://127.0.0.1:9/v1#{model}" for role, model in zip(("small", "large"), MODELS, strict=True)]
    given = [f"jsonl:{tmp_path / 'questions.jsonl'}", f"--out={tmp_path / 'run'}", *models, "--accept=calibrated(0.9)"]
    with pytest.raises(BadInput, match="needs an acceptance table for qwen3-small and qwen3-large"):
        CliRunner().invoke(app, ["eval", *given], catch_exceptions=False)
    assert not (tmp_path / "run").exists()
