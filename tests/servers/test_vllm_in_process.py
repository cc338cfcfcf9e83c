"""Models in vLLM's engine: streamed cards, equality with other engines, memory, a dead engine, the commands.

Runs in vLLM's own environment, started by test_vllm_engine.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from jsonschema import Draft202012Validator
from programs import HOME, free_port, running

import cuecard
from cuecard.demo import boards
from cuecard.domain.call import FinishReason
from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import spec
from cuecard.models.base import AnswerDelta, Finished, Limits, ReasoningDelta
from cuecard.models.prompt import CardFormat, Prompt, growing, read, reason, short
from cuecard.models.vllm import prompts as sessions

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("vllm") is None, reason="runs in .servers/vllm, by test_vllm_engine.py"),
]
WEIGHTS = Path(cuecard.__file__).parent / "weights"
SMOLLM = HOME / "smollm2"
LIMITS = Limits(answer_tokens=24, reasoning_tokens=64, timeout_s=None)
CARD = (
    "A train leaves at 9:40 and arrives at 11:25. From 9:40 to 10:40 is one hour, so 60 minutes. From 10:40 to 11:25 "
    "are 45 minutes. Together that is 105 minutes, or one hour and three quarters. "
) * 3
FLAG = {
    "type": "object",
    "properties": {"colours": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4}},
    "required": ["colours"],
    "additionalProperties": False,
}


def table(source: Path, **more) -> dict:
    """The table of a model in a small engine."""
    arguments = {"kv_cache_memory_bytes": 2**28, "max_num_seqs": 8}
    return {
        "model": f"vllm:{source}",
        "dtype": "float32",
        "eager": True,
        "max_len": 2048,
        "engine_args": arguments,
    } | more


@pytest.fixture(scope="module")
def model() -> Iterator:
    """SmolLM2-135M in vLLM."""
    loaded = spec.load(table(SMOLLM))
    yield loaded
    asyncio.run(loaded.aclose())


@pytest.fixture
def question() -> Question:
    return Question("How many minutes does the train from Graz to Linz take?", kind=AnswerKind.NUMBER)


async def heard(model, prompt: Prompt, limits: Limits = LIMITS) -> tuple[str, str, Finished]:
    """Reasoning, answer and end of a call."""
    async with aclosing(model.stream(prompt, limits)) as events:
        found = [event async for event in events]
    texts = ["".join(e.text for e in found if isinstance(e, kind)) for kind in (ReasoningDelta, AnswerDelta)]
    assert isinstance(found[-1], Finished)
    return texts[0], texts[1], found[-1]


async def streamed(model, question: Question, form: CardFormat, step: int = 60) -> tuple[str, str, Finished]:
    """The answer to a question whose card grows piece by piece."""
    style = model.abilities.style
    for end in range(step, len(CARD), step):
        await model.warm(growing(question, CARD[:end], form, style))
    return await heard(model, read(question, CARD, form, style))


# --- streamed cards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CardFormat)
async def test_a_streamed_card_gives_the_same_answer_as_a_whole_one(form, model, question):
    model.forget()
    _, whole, plain = await heard(model, read(question, CARD, form, model.abilities.style))
    model.forget()
    _, answer, end = await streamed(model, question, form)
    assert answer == whole
    assert end.answer_logprob == pytest.approx(plain.answer_logprob, abs=1e-3)
    assert end.usage.prompt_tokens == plain.usage.prompt_tokens
    assert end.usage.completion_tokens == plain.usage.completion_tokens


async def test_the_call_that_reads_a_streamed_card_computes_its_last_tokens_only(model, question):
    model.forget()
    _, _, end = await streamed(model, question, CardFormat.NOTES)
    assert end.usage.prompt_tokens - end.usage.cached_tokens < 60


async def test_every_piece_of_a_card_is_computed_once(model, question):
    model.forget()
    style, computed = model.abilities.style, 0
    for end in range(60, len(CARD), 60):
        usage = await model.warm(growing(question, CARD[:end], CardFormat.NOTES, style))
        computed += usage.prompt_tokens - usage.cached_tokens
    assert computed == usage.prompt_tokens


async def test_a_card_that_changes_is_read_as_it_is_at_the_end(model, question):
    style = model.abilities.style
    await model.warm(growing(question, CARD[:200], CardFormat.NOTES, style))
    other = read(question, CARD[:90] + "The train takes 12 minutes.", CardFormat.NOTES, style)
    _, answer, _ = await heard(model, other)
    model.forget()
    assert (await heard(model, other))[1] == answer


async def test_two_questions_at_once_have_a_session_each(model, question):
    model.forget()
    other = Question("How many minutes does the train from Bern to Lyon take?", kind=AnswerKind.NUMBER)
    both = await asyncio.gather(*(streamed(model, each, CardFormat.NOTES) for each in (question, other)))
    model.forget()
    alone = [await streamed(model, each, CardFormat.NOTES) for each in (question, other)]
    assert [answer for _, answer, _ in both] == [answer for _, answer, _ in alone]


async def test_a_session_without_a_reader_ends(model, question, monkeypatch):
    monkeypatch.setattr(sessions, "IDLE_S", 0.5)
    await model.warm(growing(question, CARD, CardFormat.NOTES, model.abilities.style))
    assert model.engine.output_processor.has_unfinished_requests()
    await asyncio.sleep(2)
    assert not model.engine.output_processor.has_unfinished_requests()


async def test_an_image_is_computed_once_for_a_streamed_card():
    model = spec.load(table(WEIGHTS / "demo-large"))
    try:
        exercise = next(e for e in boards.exercises(12, 11) if e.task.startswith("jump"))
        style, question = model.abilities.style, exercise.question
        card = "Start at cell 1. It shows 3. Jump 3 cells to cell 4. It shows 2. " * 3
        _, whole, plain = await heard(model, read(question, card, CardFormat.THINKING, style))
        model.forget()
        for end in range(40, len(card), 40):
            await model.warm(growing(question, card[:end], CardFormat.THINKING, style))
        _, answer, last = await heard(model, read(question, card, CardFormat.THINKING, style))
        assert (answer, last.usage.prompt_tokens) == (whole, plain.usage.prompt_tokens)
        assert last.usage.cached_tokens > 16
    finally:
        await model.aclose()


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_an_answer_after_reasoning_fits_its_schema(model):
    question = Question(
        "Which colours has the flag of France?", kind=AnswerKind.FREE_TEXT, schema=json.dumps(FLAG, sort_keys=True)
    )
    for prompt in (short(question, model.abilities.style), reason(question, model.abilities.style)):
        reasoning, answer, _ = await heard(model, prompt, Limits(answer_tokens=100, reasoning_tokens=48))
        Draft202012Validator(FLAG).validate(json.loads(answer))
        assert bool(reasoning) == (prompt.mode == "reason")


async def test_a_brief_answer_is_decoded_under_the_grammar_of_its_kind(model):
    question = Question("Write a poem about the sea.", options=("a cat", "a dog"), kind=AnswerKind.CHOICE)
    from cuecard.models.vllm.model import VllmModel

    constrained = VllmModel("constrained", model._host, constrained=True)
    assert (await heard(constrained, short(question, constrained.abilities.style)))[1] in ("A", "B")


async def test_answers_equal_those_of_transformers(model):
    """Both decode greedily in float32; kernels differ, so one answer in six may differ."""
    local = spec.load({"model": str(SMOLLM), "device": "cpu"})
    texts = ("What is the capital of France?", "What is 7 plus 5?", "Which animal barks?")
    prompts = [make(Question(text), model.abilities.style) for text in texts for make in (short, reason)]
    differ = []
    for prompt in prompts:
        here, there = await heard(local, prompt), await heard(model, prompt)
        if here[:2] != there[:2] or here[2].finish_reason is not there[2].finish_reason:
            differ.append((here, there))
    await local.aclose()
    assert len(differ) <= 1, differ


# --- memory, death, end -----------------------------------------------------------------------------------------------


def test_two_engines_that_do_not_fit_are_refused_before_one_is_loaded():
    with pytest.raises(BadInput, match=r"reserve 1\.40 of the device's memory together") as caught:
        cuecard.Pair(f"vllm:{SMOLLM}?gpu_memory=0.9", f"vllm:{WEIGHTS / 'demo-large'}?gpu_memory=0.5")
    assert "gpu_memory" in caught.value.hint


def children() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True)}


async def test_a_dead_engine_is_started_again_and_a_closed_one_leaves_no_process(question):
    before = children()
    model = spec.load(table(SMOLLM))
    prompt = short(question, model.abilities.style)
    _, answer, _ = await heard(model, prompt)
    for each in children() - before:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    with pytest.raises(ModelUnreachable, match="engine process has ended"):
        await heard(model, prompt)
    assert (await heard(model, prompt))[1] == answer
    await model.aclose()
    assert {each for each in children() - before if psutil.Process(each).status() != psutil.STATUS_ZOMBIE} <= trackers()


def trackers() -> set[int]:
    """Helpers of Python's multiprocessing, which end with this process."""
    every = psutil.Process().children(recursive=True)
    return {each.pid for each in every if "resource_tracker" in " ".join(each.cmdline())}


def test_a_killed_command_leaves_no_engine(tmp_path):
    port = free_port()
    config = tmp_path / "cuecard.toml"
    engine = f'model = "vllm:{SMOLLM}"\ndtype = "float32"\neager = true\nmax_len = 1024\ngpu_memory = 0.2\n'
    arguments = "engine_args = { kv_cache_memory_bytes = 268435456, max_num_seqs = 4 }\n"
    config.write_text(f"version = 1\n[small]\n{engine}{arguments}[large]\n{engine}{arguments}")
    command = [Path(sys.executable).parent / "cuecard", "serve", "--config", config, "--port", str(port)]
    with running(command, f"http://127.0.0.1:{port}/health", tmp_path / "gateway", 900) as gateway:
        engines = psutil.Process(gateway.pid).children(recursive=True)
        assert engines
        os.kill(gateway.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(engines, timeout=30)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def script(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run a script that loads SmolLM2."""
    file = folder / "script.py"
    file.write_text("\n".join(["from cuecard.models import spec", *lines]))
    return subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=300)


def test_a_script_need_not_close_its_model(tmp_path):
    done = script(tmp_path, "if __name__ == '__main__':", f"    print(spec.load({table(SMOLLM)!r}).name)")
    assert (done.returncode, done.stdout) == (0, "smollm2\n")
    assert "Traceback" not in done.stderr


def test_a_script_without_a_guard_learns_what_it_lacks(tmp_path):
    done = script(tmp_path, f"print(spec.load({table(SMOLLM)!r}).name)")
    assert done.returncode != 0
    assert "__main__" in done.stderr.splitlines()[-1]


def test_ctrl_c_while_a_model_loads_ends_its_processes(tmp_path):
    command = [Path(sys.executable).parent / "cuecard", "models", f"vllm:{SMOLLM}?dtype=float32&gpu_memory=0.1"]
    with (tmp_path / "log").open("w") as log:
        loading = subprocess.Popen(
            command,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while len(started := psutil.Process(loading.pid).children(recursive=True)) < 2:
            assert loading.poll() is None
            time.sleep(0.05)
        os.killpg(loading.pid, signal.SIGINT)
        assert loading.wait(30) == 130
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    log = (tmp_path / "log").read_text()
    assert log.splitlines()[-1] == "stopped"
    assert "Traceback" not in log


def test_the_command_asks_a_pair_in_vllm(tmp_path):
    file = tmp_path / "pair.toml"
    engine = f'model = "vllm:{SMOLLM}"\ndtype = "float32"\neager = true\nmax_len = 1024\ngpu_memory = 0.2\n'
    arguments = "engine_args = { kv_cache_memory_bytes = 268435456, max_num_seqs = 4 }\n"
    file.write_text(f"[small]\n{engine}{arguments}[large]\n{engine}{arguments}")
    command = [Path(sys.executable).parent / "cuecard", "ask", "What is the capital of France?", "--pair", file]
    begun = time.monotonic()
    done = subprocess.run([*command, "--strategy", "transfer", "--json"], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout)
    assert outcome["answer"], time.monotonic() - begun
    assert FinishReason(outcome["calls"][-1]["finish_reason"]) in FinishReason
