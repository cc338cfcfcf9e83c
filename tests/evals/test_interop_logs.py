"""Logs of inspect_ai and lm-evaluation-harness: values read from them, and refused logs."""

from __future__ import annotations

import json
import struct
import zipfile

import pytest
from files import b64, tsv
from predictions import GOLDS, SMALL_SHORT, harness, imported, inspect_log, log_samples, only, pets, samples, unresolved
from test_interop_files import known, refusal
from test_interop_runs import answers, calls

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput
from cuecard.evals.interop import inspect, lmms, places, source
from cuecard.evals.tasks.registry import open_task

SHORT = ("small", Mode.SHORT)


def first(tmp_path, **fields):
    """The reply in a log of one sample with these fields changed."""
    path = inspect_log(tmp_path / "a.json", log_samples(["A"], **fields))
    return next(inspect.read(path, known(tmp_path)))


def output(content, **more):
    return {"choices": [{"message": {"role": "assistant", "content": content}, "stop_reason": "stop"}], **more}


# --- inspect_ai -------------------------------------------------------------------------------------------------------


def test_a_reply_of_inspect_ai_keeps_reasoning_tokens_and_the_prompt(tmp_path):
    content = [
        {"type": "reasoning", "reasoning": "It purrs.", "signature": "x"},
        {"type": "reasoning", "reasoning": "gAAAAB", "redacted": True, "summary": "A cat, then."},
        {"type": "text", "text": "A"},
        {"type": "image", "image": "attachment://0f"},
    ]
    usage = {
        "input_tokens": 100,
        "output_tokens": 40,
        "total_tokens": 200,
        "input_tokens_cache_read": 50,
        "input_tokens_cache_write": 10,
        "reasoning_tokens": 30,
    }
    asked = {"role": "user", "content": [{"type": "text", "text": "Which pet is number 0? Be brief."}]}
    reply = first(tmp_path, output=output(content, usage=usage), messages=[asked])
    assert (reply.answer, reply.reasoning) == ("A", "It purrs.\nA cat, then.")
    assert (reply.usage, reply.finish_reason) == (Usage(160, 50, 40, 30), FinishReason.STOP)
    assert reply.prompt == "Which pet is number 0? Be brief."


def test_tokens_are_not_counted_where_a_sample_made_several_calls_or_none_are_given(tmp_path):
    turn = {"role": "assistant", "content": "A", "source": "generate"}
    counts = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}
    nothing = dict.fromkeys(counts, 0)
    assert first(tmp_path, output=output("A", usage=counts), messages=[turn]).usage == Usage(9, None, 1)
    assert first(tmp_path, output=output("A", usage=counts), messages=[turn, turn]).usage == Usage()
    assert first(tmp_path, output=output("A", usage=nothing)).usage == Usage()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error": {"message": "Connection\nreset", "traceback": "…"}}, "Connection reset"),
        ({"output": {"choices": [], "error": "moderated"}}, "moderated"),
        ({"output": {"choices": []}, "limit": {"type": "time", "limit": 60}}, "stopped by its limit (time)"),
        ({"output": {}}, "the sample has no output"),
        ({"output": {"choices": [{"stop_reason": "content_filter", "message": {"content": "no"}}]}}, "content filter"),
    ],
)
def test_a_sample_that_failed_is_a_failed_call_and_no_wrong_answer(tmp_path, fields, message):
    pets(tmp_path)
    given = log_samples(SMALL_SHORT)
    given[0] |= fields
    _, summary = imported(tmp_path, {SHORT: inspect_log(tmp_path / "a.json", given)}, "inspect")
    answer = answers(tmp_path / "run", "short:small")["0"]
    assert (answer["status"], answer["score"]) == ("error", None)
    assert message in answer["reason"]
    assert only(summary)["short:small"]["errors"] == 1


@pytest.mark.parametrize("mode", [Mode.SHORT, Mode.REASON])
def test_a_reply_that_was_cut_is_known_as_one_and_a_short_one_does_not_stand(tmp_path, mode):
    pets(tmp_path)
    given = log_samples(SMALL_SHORT)
    for sample, reason in zip(given, ("stop", "max_tokens", "model_length"), strict=False):
        sample["output"]["choices"][0]["stop_reason"] = reason
    filled, _ = imported(tmp_path, {("small", mode): inspect_log(tmp_path / "a.json", given)}, "inspect")
    assert [call["finish_reason"] for call in calls(tmp_path / "run")].count("length") == 2
    found = answers(tmp_path / "run", f"{mode}:small")
    if mode is Mode.REASON:
        assert [found[id]["truncated"] for id in "012"] == [False, True, True]
    else:  # a strategy would make a second request, and its reply is in no file
        (lacks,) = unresolved(filled).values()
        assert ("was cut off" in next(iter(lacks)), sum(lacks.values())) == (True, 2)


def test_epochs_after_the_first_and_invalidated_samples_are_counted_and_not_used(tmp_path):
    given = log_samples(["A", "B"]) + log_samples(["C", "C"], epoch=2)
    given[1]["invalidation"] = {"author": "me", "reason": "wrong image"}
    for suffix in (".json", ".eval"):
        path = inspect_log(tmp_path / f"a{suffix}", given)
        read = source("small", Mode.SHORT, path, inspect.read, known(tmp_path))
        assert {id: reply.answer for id, reply in read.replies.items()} == {"0": "A"}
        assert sorted(read.unused.values()) == [1, 2]


def test_the_model_is_called_as_in_the_log_also_where_the_log_was_broken_off(tmp_path):
    for suffix in (".json", ".eval"):
        path = inspect_log(tmp_path / f"a{suffix}", log_samples(["A"]), "openai/gpt")
        assert inspect.model(path, "pets") == "openai/gpt"
    with zipfile.ZipFile(tmp_path / "b.eval", "w") as log:
        log.writestr("_journal/start.json", json.dumps({"eval": {"model": "vllm/pet"}}))
    assert inspect.model(tmp_path / "b.eval", "pets") == "vllm/pet"


def test_a_sample_whose_messages_have_files_of_their_own_is_read(tmp_path):
    (sample,) = log_samples(["A"])
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as log:
        log.writestr("samples/0_epoch_1/sample.json", json.dumps({**sample, "messages": None}))
        log.writestr("samples/0_epoch_1/messages/0.json", "[]")
        log.writestr("samples/0_epoch_1/events/stats.json", "{}")
    (reply,) = inspect.read(tmp_path / "a.eval", known(tmp_path))
    assert (reply.answer, reply.prompt) == ("A", "Which pet is number 0?")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id": 17}, "sample 1, `id`: the task has no question '17' (its first: 0, 1, 2)"),
        ({"id": None}, "sample 1 has no `id`"),
        ({"input": "Who is it?"}, "sample 1, `input`: 'Who is it?' is not what question '0' asks"),
        ({"choices": ["a dog", "a cat", "a cow"]}, "sample 1, `choices` are not the options of question '0'"),
        ({"target": "B"}, "sample 1, column `target`: 'B' is right there, but 'A' for question '0'"),
        ({"target": ["B"]}, "sample 1, column `target`: 'B' is right there"),
        ({"output": {"choices": [{}, {}]}}, "sample 1, `output` holds 2 replies"),
        ({"output": {"choices": [{}]}}, "sample 1, `output`: the message has no `content`"),
        (
            {"output": output("A", usage={"total_tokens": 3, "output_tokens": 1, "reasoning_tokens": 2})},
            "sample 1, `usage`: 2 tokens are reasoning of 1",
        ),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_its_sample(tmp_path, fields, expected):
    path = inspect_log(tmp_path / "a.json", [log_samples(["A"])[0] | fields])
    assert expected in refusal(inspect.read, path, known(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"[]", "is not a log of inspect_ai: it has no `eval`"),
        ("a.json", b'{"eval": {}}', "no usable replies"),
        ("a.json", b'{"version": 3, "eval": {}}', "is a log of version 3, and versions 1 and 2 can be read"),
        ("a.json", b'{"eval": {}, "samples": [1]}', "sample 1 is not an object"),
        ("a.eval", b"{}", "is not a zip"),
    ],
)
def test_a_broken_log_is_refused_in_one_line(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text)
    assert expected in refusal(inspect.read, tmp_path / name, known(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "samples/0_epoch_1.json cannot be read"), ("[]", "samples/0_epoch_1.json is not an object")],
)
def test_a_broken_sample_is_refused_with_its_name_in_the_zip(tmp_path, text, expected):
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as log:
        log.writestr("samples/0_epoch_1.json", text)
    assert expected in refusal(inspect.read, tmp_path / "a.eval", known(tmp_path))


def test_an_archive_of_a_later_version_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as log:
        log.writestr("header.json", '{"version": 3, "eval": {}}')
    assert "is a log of version 3" in refusal(inspect.read, tmp_path / "a.eval", known(tmp_path))


def test_a_compression_that_this_python_does_not_have_is_named_with_what_to_do(tmp_path):
    path = inspect_log(tmp_path / "a.eval", log_samples(["A"]))
    data = path.read_bytes()
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # the compression method, in both headers of every file
        places_ = [place for place in range(len(data)) if data.startswith(mark, place)]
        for place in places_:
            data = data[: place + at] + struct.pack("<H", 95) + data[place + at + 2 :]
    path.write_bytes(data)
    message = refusal(inspect.read, path, known(tmp_path))
    assert "header.json is compressed in a way that this Python cannot unpack" in message
    assert "pip install zipfile-zstd" in message


def test_several_logs_are_one_run_if_no_question_is_in_two_of_them(tmp_path):
    pets(tmp_path)
    given = log_samples(SMALL_SHORT)
    logs = [inspect_log(tmp_path / f"{number}.json", given[number::2]) for number in (0, 1)]
    _, summary = imported(tmp_path, {SHORT: logs}, "inspect")
    assert only(summary)["short:small"]["answered"] == 6
    assert list(summary["config"]["imported"]["files"]) == ["small-short", "small-short-2"]
    imported(tmp_path, {SHORT: logs[::-1]}, "inspect")  # the same run in either order
    again = inspect_log(tmp_path / "again.json", given[:1])
    with pytest.raises(BadInput, match=r"question '0' is answered in .*0\.json and in .*again\.json"):
        imported(tmp_path, {SHORT: [*logs, again]}, "inspect")


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------


def test_a_question_has_one_reply_whatever_filters_read_it(tmp_path):
    path = harness(tmp_path / "m" / "a.jsonl", ["The answer is A.", "<think>it barks</think>B"], ("strict", "flexible"))
    read = source("small", Mode.REASON, path, lmms.read_lm_eval, known(tmp_path))
    assert [(each.answer, each.reasoning) for each in read.replies.values()] == [
        ("The answer is A.", None), ("B", "it barks"),
    ]  # fmt: skip
    assert read.replies["0"].prompt == "Question: pet 0"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"doc_id": 6}, "line 1, `doc_id`: the task has no question at row 6"),
        ({"doc_id": None}, "line 1: `doc_id` is missing"),
        ({"target": "B"}, "line 1, column `target`: 'B' is right there, but 'A'"),
        ({"resps": [["A", "B"]]}, "line 1, `resps` holds 2 replies"),
        ({"resps": None}, "line 1, `resps` is missing"),
        ({"resps": [[["-1.5", "False"]], [["-0.1", "True"]]]}, "line 1, `resps` holds log-likelihoods"),
        ({"resps": [[["-1.5", "False"]]], "arguments": None}, "line 1, `resps` holds log-likelihoods"),
        ({"resps": [["-120.5"]], "arguments": {"gen_args_0": {"arg_0": "A whole text"}}}, "holds log-likelihoods"),
    ],
)
def test_a_harness_log_that_does_not_fit_is_refused_with_its_line(tmp_path, fields, expected):
    path = harness(tmp_path / "m" / "a.jsonl", ["A"], **fields)
    assert expected in refusal(lmms.read_lm_eval, path, known(tmp_path))


@pytest.mark.parametrize(("write", "read"), [(harness, lmms.read_lm_eval), (samples, lmms.read)])
def test_samples_of_another_data_set_are_refused_also_where_the_right_answers_cannot_be_compared(tmp_path, write, read):
    other = {"doc": {"question": "What is 2 + 3?"}, "input": "What is 2 + 3?", "target": "5"}
    path = write(
        tmp_path / "m" / "a.jsonl", ["5", "8"], **other, arguments={"gen_args_0": {"arg_0": "2 + 3", "arg_1": {}}}
    )
    assert "2 of 2 questions are not the task's, the first in line 1" in refusal(read, path, known(tmp_path))


def test_a_chat_with_examples_before_the_question_is_about_that_question(tmp_path):
    turns = json.dumps(
        [{"role": "user", "content": "Which?\n«Yes»"}, {"role": "user", "content": "Which pet is  number 0"}]
    )
    path = harness(tmp_path / "m" / "a.jsonl", ["A"], doc={}, arguments={"gen_args_0": {"arg_0": [turns], "arg_1": {}}})
    assert next(lmms.read_lm_eval(path, known(tmp_path))).same_question


def test_another_reply_to_the_same_question_is_refused(tmp_path):
    path = harness(tmp_path / "m" / "a.jsonl", ["A"])
    path.write_text(path.read_text() + path.read_text().replace('[["A"]]', '[["B"]]'))
    assert "line 2: question '0' is answered in line 1 too" in refusal(lmms.read_lm_eval, path, known(tmp_path))


@pytest.mark.parametrize(("target", "fits"), [("He has 9 * 2 = 18.\n#### 18", True), ("['18']", True), ("17", False)])
def test_right_answers_of_the_harness_may_come_with_a_solution(tmp_path, target, fits):
    data = [{"index": 0, "question": "How many?", "answer": "18", "image": b64()}]
    there = places(open_task(f"tsv:{tsv(tmp_path / 'Numbers.tsv', data)}"))
    path = harness(tmp_path / "m" / "a.jsonl", ["18"], target=target, doc={"question": "How many?"})
    if fits:
        assert len(source("small", Mode.SHORT, path, lmms.read_lm_eval, there).replies) == 1
    else:
        assert "1 of 1 right answers are not the task's" in refusal(lmms.read_lm_eval, path, there)


def test_a_number_for_the_right_choice_counts_options_or_is_one_and_is_not_compared(tmp_path):
    path = harness(tmp_path / "m" / "a.jsonl", ["A"], target="2")
    assert next(lmms.read_lm_eval(path, known(tmp_path))).gold is None
    assert GOLDS[0] == "A"
