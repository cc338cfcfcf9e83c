"""Child processes for jobs without a bounded duration: a late, dead or faulty child is replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuecard.worker import ChildWorker

SCRIPT = """
import json, os, sys, time

for line in sys.stdin.buffer:
    job = json.loads(line)
    data = sys.stdin.buffer.read(job["bytes"])
    if job.get("do") == "sleep":
        time.sleep(60)
    if job.get("do") == "exit":
        sys.exit()
    if job.get("do") == "half":
        print(json.dumps({"bytes": 10}), flush=True)
        sys.exit()
    if job.get("do") == "nonsense":
        print("no JSON", flush=True)
    reply = data[::-1]
    sys.stdout.buffer.write(json.dumps({"pid": os.getpid(), "bytes": len(reply)}).encode() + b"\\n" + reply)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[ChildWorker]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    made = ChildWorker(script)
    yield made
    made.close()


def test_jobs_go_to_one_child_with_their_bytes(worker: ChildWorker) -> None:
    large = bytes(range(256)) * 10_000
    replies = [worker.do({}, 20, data) for data in (b"abc", b"", large)]
    assert [data for _, data in replies] == [b"cba", b"", large[::-1]]
    assert len({reply["pid"] for reply, _ in replies}) == 1


def test_a_late_job_ends_its_child_and_the_next_one_has_another(worker: ChildWorker) -> None:
    before, _ = worker.do({}, 20)
    with pytest.raises(TimeoutError):
        worker.do({"do": "sleep"}, 0.2, b"x" * 1_000_000)
    after, data = worker.do({}, 20, b"ab")
    assert (data, after["pid"] != before["pid"]) == (b"ba", True)


@pytest.mark.parametrize("end", ["exit", "half", "nonsense"])
def test_a_child_that_ends_or_sends_invalid_replies_is_replaced(worker: ChildWorker, end: str) -> None:
    with pytest.raises(EOFError):
        worker.do({"do": end}, 20)
    assert worker.do({}, 20, b"ab")[1] == b"ba"


def test_threads_take_turns(worker: ChildWorker) -> None:
    replies: list[bytes] = []
    threads = [threading.Thread(target=lambda: replies.append(worker.do({}, 20, b"ab")[1])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [b"ba"] * 8


def test_a_closed_worker_starts_again(worker: ChildWorker) -> None:
    worker.do({}, 20)
    worker.close()
    worker.close()
    assert worker.do({}, 20, b"ab")[1] == b"ba"
