"""The store and directory of a run: stored rows persist, corrupt rows are detected, processes exclude each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cuecard.disk import CannotStore, save
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.evals.database import AnswerRow, CallRow, ItemRow, Mended, Store
from cuecard.evals.interop import of_run
from cuecard.evals.run_folder import RunFolder, opened, read

CALL = {"model": "small", "mode": "short", "status": "ok", "answer": "A", "made_at": 1.0}
ANSWER = {"task": "t", "id": "1", "arm": "mutual", "status": "ok", "calls": [{"key": "k1"}]}
BOARDS = {"name": "boards", "revision": "1", "aggregate": "mean"}
CONFIG = {"arms": ["mutual"], "models": {"small": {"revision": "a"}}, "tasks": [BOARDS], "limit": 5, "sample": None}
FACTS = {"argv": []}


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "run.sqlite")
    yield made
    made.close()


def put_all(store: Store) -> None:
    store.put([ItemRow("t", "1", 0, {"text": "?"}), CallRow("k1", CALL), CallRow("k2", CALL)])
    store.put([AnswerRow("t", "1", "mutual", ANSWER), AnswerRow("t", "1", "short:small", ANSWER | {"calls": []})])


def changed(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


def test_what_was_put_is_there_in_another_process_and_ordinary_tools_can_read_it(store, tmp_path):
    put_all(store)
    script = f"import sqlite3; print(sqlite3.connect({str(tmp_path / 'run.sqlite')!r})"
    script += ".execute('select json_extract(record, \"$.answer\") from calls').fetchone())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "('A',)\n"


def test_a_row_that_is_put_twice_is_there_once_and_stays_as_it_was(store):
    put_all(store)
    store.put([CallRow("k1", CALL | {"answer": "B"})])
    assert [record["answer"] for _, record in store.calls()] == ["A", "A"]


def test_a_call_whose_checksum_is_wrong_is_deleted_with_the_answers_made_of_it(store, tmp_path):
    put_all(store)
    changed(tmp_path / "run.sqlite", "UPDATE calls SET record = replace(record, 'A', 'B') WHERE key = 'k1'")
    assert store.mend() == Mended(1, 1)
    assert [key for key, _ in store.calls()] == ["k2"]
    assert [answer["calls"] for answer in store.answers()] == [[]]
    assert store.mend() == Mended(0, 0)


def test_a_reader_refuses_rows_that_are_not_as_they_were_stored(store, tmp_path):
    put_all(store)
    disk_file = tmp_path / "run.json"
    disk_file.write_text(json.dumps({"version": 1, "config": CONFIG}))
    path, rows = tmp_path, tmp_path / "run.sqlite"
    about, reader = opened(path)
    reader.close()
    assert about["config"] == CONFIG
    changed(rows, "UPDATE answers SET record = replace(record, 'ok', 'no') WHERE arm = 'short:small'")
    changed(rows, "UPDATE items SET record = replace(record, '?', '!')")
    changed(rows, "UPDATE calls SET record = replace(record, 'A', 'B') WHERE key = 'k2'")
    with pytest.raises(CannotStore, match="1 item and 1 call and 1 answer not as stored"):
        opened(path)
    with pytest.raises(CannotStore, match="not as stored"):
        of_run(path, "mutual")
    assert store.mend() == Mended(1, 2, 1), "the answers to an item go with it"
    store.check()


def test_items_of_an_earlier_version_have_no_checksum_and_get_one_when_they_are_put_again(tmp_path):
    with sqlite3.connect(tmp_path / "run.sqlite") as old:
        old.execute("CREATE TABLE items(task TEXT, id TEXT, ord INTEGER, record TEXT, PRIMARY KEY(task, id))")
        old.execute("INSERT INTO items VALUES ('t', '1', 0, '{}')")
    old.close()
    later = Store(tmp_path / "run.sqlite")
    later.put([ItemRow("t", "2", 1, {"text": "?"})])
    later.check()
    later.close()
    changed(tmp_path / "run.sqlite", "UPDATE items SET record = '{}' WHERE id = '2'")
    again = Store(tmp_path / "run.sqlite", read_only=True)
    with pytest.raises(CannotStore, match="1 item not as stored"):
        again.check()
    again.close()


def test_a_run_that_has_lost_its_rows_is_not_begun_anew(tmp_path):
    with RunFolder(tmp_path / "run", CONFIG, FACTS):
        pass
    (tmp_path / "run" / "run.sqlite").unlink()
    with pytest.raises(BadInput, match="has lost its rows"):
        RunFolder(tmp_path / "run", CONFIG, FACTS)


def test_a_sound_row_under_the_key_of_another_is_found(store, tmp_path):
    put_all(store)
    changed(tmp_path / "run.sqlite", "UPDATE calls SET key = 'k3' WHERE key = 'k2'")
    assert store.mend() == Mended(1, 0)


@pytest.mark.parametrize("torn", [1, 60, 700])
def test_a_log_that_is_torn_at_its_end_loses_its_last_transaction_and_nothing_else(store, tmp_path, torn):
    put_all(store)
    store.put([CallRow("last", CALL)])
    for name in ("run.sqlite", "run.sqlite-wal"):  # as after a power cut: nothing was closed
        (tmp_path / "cut").mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / "cut" / name)
    os.truncate(tmp_path / "cut" / "run.sqlite-wal", (tmp_path / "run.sqlite-wal").stat().st_size - torn)
    after = Store(tmp_path / "cut" / "run.sqlite")
    assert after.mend() == Mended(0, 0)
    assert [key for key, _ in after.calls()] == ["k1", "k2"]
    after.close()


def test_failed_calls_are_dropped_with_every_answer_they_had_a_part_in(store):
    put_all(store)
    store.put([CallRow("k4", CALL | {"status": "error"})])
    store.put([AnswerRow("t", "2", "mutual", ANSWER | {"id": "2", "status": "degraded", "calls": [{"key": "k4"}]})])
    assert store.drop_errors() == Mended(1, 1)
    assert len(list(store.answers())) == 2


def test_images_are_kept_up_to_a_size_and_left_out_beyond_it(tmp_path):
    store = Store(tmp_path / "run.sqlite", most_image_bytes=10)
    first, second = Image(b"12345678"), Image(b"123456789")
    store.put([ItemRow("t", "1", 0, {}, (first, second, first))])
    assert (store.image(first.digest), store.image(second.digest)) == (first, None)
    store.close()


def test_a_full_disk_is_reported_and_stored_rows_stay(store, tmp_path):
    put_all(store)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then fails as on a full disk
    with pytest.raises(CannotStore, match="disk is full"):
        store.put([CallRow("k9", CALL | {"answer": "A" * 100_000})])
    store._writer.execute("PRAGMA max_page_count = 100000")
    store.put([CallRow("k10", CALL)])
    assert [key for key, _ in store.calls()] == ["k1", "k10", "k2"]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "run.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(CannotStore, match="damaged"):
        Store(tmp_path / "run.sqlite")


# --- the directory ----------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    with RunFolder(tmp_path / "run", CONFIG, FACTS), multiprocessing.get_context("spawn").Pool(1) as other:
        result = other.apply(refusal, (tmp_path / "run",))
    assert result.startswith(f"another process (process {os.getpid()}) is at work in {tmp_path / 'run'}")
    with RunFolder(tmp_path / "run", CONFIG, FACTS) as held:
        assert held.resumed


def refusal(path: Path) -> str:
    try:
        RunFolder(path, CONFIG, FACTS)
    except BadInput as error:
        return str(error)
    return "let in"


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    with RunFolder(tmp_path, CONFIG, FACTS):
        pass
    for result, change in {
        r"models\.small\.revision is 'a' there, 'b' here": {"models": {"small": {"revision": "b"}}},
        r"tasks\.boards\.revision is '1' there, '2' here": {"tasks": [BOARDS | {"revision": "2"}]},
        "sample is None there, 3 here": {"sample": 3},
        "arms: mutual only there": {"arms": ["transfer"]},
        "asks 5 questions of each task, not only 4": {"limit": 4},
    }.items():
        with pytest.raises(BadInput, match=result):
            RunFolder(tmp_path, CONFIG | change, {})
    with RunFolder(tmp_path, CONFIG, FACTS):  # the lock was released
        pass


def test_a_run_grows_by_arms_tasks_and_questions_and_records_what_is_new(tmp_path):
    with RunFolder(tmp_path, CONFIG, FACTS) as held:
        held.store.note("complete boards", True)
    larger = CONFIG | {"arms": ["mutual", "vote"], "tasks": [BOARDS, BOARDS | {"name": "more"}], "limit": None}
    with RunFolder(tmp_path, larger, {"argv": ["again"]}) as held:
        assert held.added == ["arm vote", "task more", "all instead of 5 questions of each task"]
        assert held.store.notes()["complete boards"] is False
    result = read(tmp_path)
    assert (result["config"], result["argv"]) == (larger, [])
    assert result["grown"] == [{"added": held.added, "argv": ["again"]}]
    with RunFolder(tmp_path, larger, {}) as held:
        assert held.added == []
    with pytest.raises(BadInput, match="asks all questions of each task, not only 5"):
        RunFolder(tmp_path, larger | {"limit": 5}, {})


def test_a_run_can_be_read_while_it_is_written(tmp_path):
    with RunFolder(tmp_path, CONFIG, FACTS) as held:
        held.store.put([CallRow("k1", CALL)])
        result, store = opened(tmp_path)
        assert (result["config"]["arms"], len(list(store.calls()))) == (["mutual"], 1)
        with pytest.raises(CannotStore):
            store.put([CallRow("k2", CALL)])
        store.close()


def test_a_directory_that_cannot_be_written_is_refused_in_words(tmp_path):
    path = Path("/proc/cuecard")
    with pytest.raises(CannotStore, match="cannot write into /proc/cuecard"):
        RunFolder(path, CONFIG, FACTS)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path / "summary.json", {"old": True})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotStore, match="No space left"):
        save(tmp_path / "summary.json", {"old": False})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert '"old": true' in (tmp_path / "summary.json").read_text()


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not the directory of a run"):
        read(tmp_path)
    (tmp_path / "run.json").write_text('{"version": 9, "config": {}}')
    with pytest.raises(BadInput, match="version 9"):
        read(tmp_path)
