"""A run's rows in SQLite: every item, call and answer once, each with a checksum; one writer, any number of readers.

`run.sqlite` is plain SQLite (WAL, synchronous=FULL): rows survive a kill and a power failure once `put` has returned.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuecard.disk import CannotStore
from cuecard.domain.question import Image

Record = dict[str, Any]
BadRows = dict[str, set[tuple[str, ...]]]
"""Keys of rows that are not to be used, by table."""
KEYS = {"items": ("task", "id"), "calls": ("key",), "answers": ("task", "id", "arm")}
MOST_IMAGE_BYTES = 2**30
MOST_WAITING = 1024
MOST_AT_ONCE = 256
"""Maximum rows that wait for the writer, and maximum rows per transaction."""
TABLES = """
CREATE TABLE IF NOT EXISTS items(task TEXT, id TEXT, ord INTEGER, record TEXT, checksum TEXT, PRIMARY KEY(task, id));
CREATE TABLE IF NOT EXISTS images(digest TEXT PRIMARY KEY, media_type TEXT, data BLOB);
CREATE TABLE IF NOT EXISTS calls(key TEXT PRIMARY KEY, model TEXT, mode TEXT, record TEXT, checksum TEXT, made_at REAL);
CREATE TABLE IF NOT EXISTS answers(
    task TEXT, id TEXT, arm TEXT, record TEXT, checksum TEXT, PRIMARY KEY(task, id, arm));
CREATE TABLE IF NOT EXISTS notes(key TEXT PRIMARY KEY, value TEXT);
"""


@dataclass(frozen=True)
class CallRow:
    """One call, by its cache key."""

    key: str
    record: Record


@dataclass(frozen=True)
class AnswerRow:
    """One arm's answer to one item."""

    task: str
    id: str
    arm: str
    record: Record


@dataclass(frozen=True)
class ItemRow:
    """One item and its images. `ord`: its index in the task, from 0."""

    task: str
    id: str
    ord: int
    record: Record
    images: tuple[Image, ...] = ()


Row = CallRow | AnswerRow | ItemRow


@dataclass(frozen=True)
class Mended:
    """Numbers of deleted rows, which the next run makes again; answers from deleted items and calls are included."""

    calls: int
    answers: int
    items: int = 0

    @classmethod
    def of(cls, bad: BadRows) -> Mended:
        return cls(**{table: len(keys) for table, keys in bad.items()})

    def __str__(self) -> str:
        """`2 calls and 1 answer`; empty if there are none."""
        counts = {"item": self.items, "call": self.calls, "answer": self.answers}
        return " and ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)


class Store:
    """Rows of one run. Every method may be called from any thread. Raises CannotStore."""

    def __init__(self, path: Path, *, read_only: bool = False, most_image_bytes: int = MOST_IMAGE_BYTES) -> None:
        self._path, self._most_image_bytes = path, most_image_bytes
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            self._writer = self._connect(read_only)
            if not read_only:
                self._writer.execute("PRAGMA journal_mode=WAL")
                self._writer.execute("PRAGMA synchronous=FULL")
                self._writer.executescript(TABLES)
                if not self._has_item_checksums():  # a run of an earlier version
                    self._writer.execute("ALTER TABLE items ADD COLUMN checksum TEXT")
            # a separate reader, so that a look-up does not wait for the writer's fsync
            self._reader = self._writer if read_only else self._connect(read_only)
            (held,) = self._reader.execute("SELECT coalesce(sum(length(data)), 0) FROM images").fetchone()
        except sqlite3.Error as error:
            raise _cannot_store(error, path) from error
        self._image_bytes = int(held)

    def _has_item_checksums(self) -> bool:
        return any(row[1] == "checksum" for row in self._writer.execute("PRAGMA table_info(items)"))

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        # a WAL index cannot be created in a read-only directory: open the file as immutable
        sealed = read_only and not os.access(self._path.parent, os.W_OK)
        mode = f"?{'immutable=1' if sealed else 'mode=ro'}" if read_only else ""
        address = self._path.absolute().as_uri() + mode
        return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=30)

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, rows: Iterable[Row]) -> None:
        """Insert all rows in one transaction, in order. Existing rows are kept; only an item's `ord` is updated."""
        with self._transaction():
            for row in rows:
                match row:
                    case CallRow(key, record):
                        text, made_at = _text(record), record.get("made_at") or time.time()
                        self._insert("calls", key, record["model"], record["mode"], text, checksum(text, key), made_at)
                    case AnswerRow(task, id, arm, record):
                        text = _text(record)
                        self._insert("answers", task, id, arm, text, checksum(text, task, id, arm))
                    case ItemRow(task, id, ord, record, images):
                        for image in images:
                            if self._image_bytes + len(image.data) > self._most_image_bytes:
                                continue  # the item's record has the digest, and the task has the image
                            new = self._insert("images", image.digest, image.media_type, image.data)
                            self._image_bytes += len(image.data) * new
                        text = _text(record)
                        whole = (task, id, ord, text, checksum(text, task, id))
                        into = "INSERT INTO items(task, id, ord, record, checksum) VALUES (?, ?, ?, ?, ?)"
                        again = "ON CONFLICT DO UPDATE SET ord = excluded.ord"  # `ord` grows with the sample
                        self._writer.execute(f"{into} {again}", whole)

    def _insert(self, table: str, *values: Any) -> int:
        """Number of rows inserted: 0 if there is a row with this key."""
        marks = ", ".join("?" * len(values))
        return self._writer.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values).rowcount

    def replace(self, rows: Iterable[AnswerRow]) -> None:
        """Replace existing answers, in one transaction."""
        with self._transaction():
            for row in rows:
                text, where = _text(row.record), (row.task, row.id, row.arm)
                values = (text, checksum(text, *where), *where)
                update = "UPDATE answers SET record = ?, checksum = ? WHERE task = ? AND id = ? AND arm = ?"
                self._writer.execute(update, values)

    def note(self, key: str, value: Any) -> None:
        """Store a fact about the run under a name; an existing one is replaced."""
        with self._transaction():
            self._writer.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, _text(value)))

    def mend(self) -> Mended:
        """Delete rows with a wrong checksum, and the answers that belong to such items or calls."""
        return self._delete_bad(_is_changed)

    def drop_errors(self) -> Mended:
        """Delete failed calls and answers, and all answers that use a failed call, so that they are made again."""
        return self._delete_bad(lambda text, *_: json.loads(text).get("status", "ok") != "ok")

    def _delete_bad(self, is_bad: Callable[..., bool]) -> Mended:
        """Delete bad rows. `is_bad`: (record's text, checksum, *key) -> bool."""
        bad = self._bad(is_bad)
        calls = {key for (key,) in bad["calls"]}
        for task, id, arm, text in self._all("answers", "task, id, arm, record"):
            if (task, id, arm) not in bad["answers"] and (
                (task, id) in bad["items"] or (calls and calls & {call["key"] for call in json.loads(text)["calls"]})
            ):
                bad["answers"].add((task, id, arm))
        if any(bad.values()):
            with self._transaction():
                for table, keys in bad.items():
                    where = " AND ".join(f"{name} = ?" for name in KEYS[table])
                    self._writer.executemany(f"DELETE FROM {table} WHERE {where}", list(keys))
        return Mended.of(bad)

    def _bad(self, is_bad: Callable[..., bool]) -> BadRows:
        bad: BadRows = {}
        for table, names in KEYS.items():
            # items of earlier versions have no checksum
            unchecked = table == "items" and not self._has_item_checksums()
            rows = [] if unchecked else self._all(table, f"{', '.join(names)}, record, checksum")
            known = (row for row in rows if table != "items" or row[-1] is not None)
            bad[table] = {tuple(key) for *key, text, stored in known if is_bad(text, stored, *key)}
        return bad

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A write transaction: committed as a whole or rolled back. Raises CannotStore."""
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                raise _cannot_store(error, self._path) from error
            finally:
                with suppress(sqlite3.Error):  # the connection is closed, or SQLite has rolled back
                    self._writer.rollback()

    # --- reading ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises CannotStore if the checksum of a row is wrong."""
        if changed := str(Mended.of(self._bad(_is_changed))):
            raise CannotStore(
                f"{self._path}: {changed} not as stored, by their checksums",
                "the command that made the run makes them again; nothing is read from it until then",
            )

    def call(self, key: str) -> Record | None:
        """The record of the call with this key."""
        return self._one("SELECT record FROM calls WHERE key = ?", key)

    def answered(self, task: str, id: str) -> set[str]:
        """The names of the arms that have answered this item."""
        return {arm for (arm,) in self._rows("SELECT arm FROM answers WHERE task = ? AND id = ?", task, id)}

    def answer(self, task: str, id: str, arm: str) -> Record | None:
        record = self._one("SELECT record FROM answers WHERE task = ? AND id = ? AND arm = ?", task, id, arm)
        return None if record is None else _unrescued(record)

    def calls(self) -> Iterator[tuple[str, Record]]:
        """(key, record) of every call, in the order of creation."""
        for key, text in self._all("calls", "key, record", "made_at, key"):
            yield key, json.loads(text)

    def items(self, task: str | None = None) -> Iterator[Record]:
        """Every item's record with its `task`, `id` and `ord`, in the order of tasks and `ord`."""
        for name, id, ord, text in self._all("items", "task, id, ord, record", "task, ord"):
            if task in (None, name):
                yield {"task": name, "id": id, "ord": ord, **json.loads(text)}

    def answers(self, arm: str | None = None) -> Iterator[Record]:
        """All answers, or those of one arm, in the order of tasks and items."""
        where, given = ("WHERE arm = ?", (arm,)) if arm else ("", ())
        order = "ORDER BY answers.task, items.ord, answers.arm"
        query = f"SELECT answers.record FROM answers LEFT JOIN items USING (task, id) {where} {order}"
        for (text,) in self._rows(query, *given):
            yield _unrescued(json.loads(text))

    def image(self, digest: str) -> Image | None:
        """An image by its digest; None if it was not stored. Raises CannotStore if its content does not match."""
        rows = self._rows("SELECT data, media_type FROM images WHERE digest = ?", digest)
        if not rows:
            return None
        if (image := Image(*rows[0])).digest != digest:
            raise CannotStore(f"{self._path}: the image {digest[:12]}… is not as stored", "restore the file")
        return image

    def counts(self) -> tuple[int, int]:
        """Numbers of calls and answers."""
        [(calls, answers)] = self._rows("SELECT (SELECT count(*) FROM calls), (SELECT count(*) FROM answers)")
        return calls, answers

    def notes(self) -> Record:
        return {key: json.loads(text) for key, text in self._all("notes", "key, value")}

    def _one(self, query: str, *given: str) -> Record | None:
        rows = self._rows(query, *given)
        record: Record | None = json.loads(rows[0][0]) if rows else None
        return record

    def _all(self, table: str, columns: str, order: str | None = None) -> list[tuple[Any, ...]]:
        return self._rows(f"SELECT {columns} FROM {table}" + (f" ORDER BY {order}" if order else ""))

    def _rows(self, query: str, *given: str) -> list[tuple[Any, ...]]:
        try:
            with self._reading:
                return self._reader.execute(query, given).fetchall()
        except sqlite3.Error as error:
            raise _cannot_store(error, self._path) from error

    def close(self) -> None:
        """Close the file. Works on a full disk too: the next open reads the WAL.

        Waits for rows that another thread is reading or writing; later reads and writes raise CannotStore.
        """
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()


class RowWriter:
    """Writes rows in the order of `put`, so that an answer is never stored before its calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue, self._room = asyncio.Queue[Row | None](), asyncio.Semaphore(MOST_WAITING)

    async def put(self, row: Row) -> None:
        """Queue a row to be written; waits while the queue is full."""
        await self._room.acquire()
        self._queue.put_nowait(row)

    async def work(self) -> None:
        """Write until `finish`. Raises CannotStore."""
        is_open = True
        while is_open:
            rows = [await self._queue.get()]
            while len(rows) < MOST_AT_ONCE and not self._queue.empty():
                rows.append(self._queue.get_nowait())
            is_open = None not in rows
            held = [row for row in rows if row is not None]
            await asyncio.to_thread(self._store.put, held)
            for _ in held:
                self._room.release()

    def finish(self) -> None:
        """Write the queued rows, then end `work`."""
        self._queue.put_nowait(None)


def checksum(text: str, *key: str) -> str:
    """SHA-256 of a row's key and its JSON."""
    return hashlib.sha256("\n".join((*key, text)).encode()).hexdigest()


def _is_changed(text: str, stored: str, *key: str) -> bool:
    return checksum(text, *key) != stored


def _unrescued(answer: Record) -> Record:
    """The answer's record; a `degraded` one of an earlier version (a fallback for a failed call) becomes an error."""
    if answer.get("status") != "degraded":
        return answer
    none = {"status": "error", "route": None, "answer": None, "reply": None, "parsed": False, "score": None}
    return {**answer, **none, "scores": {}, "truncated": False, "confidence": None}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cannot_store(error: sqlite3.Error, path: Path) -> CannotStore:
    """The CannotStore for a SQLite error, with a hint."""
    name = getattr(error, "sqlite_errorname", "") or ""
    match name.partition("_")[2].partition("_")[0]:
        case "FULL":
            return CannotStore(f"the disk is full: {path} takes no more")
        case "READONLY" | "PERM" | "CANTOPEN":
            return CannotStore(f"{path} cannot be opened or written: {error}", "is the directory there, and yours?")
        case "CORRUPT" | "NOTADB":
            hint = "keep a copy, try `sqlite3 run.sqlite .recover`, or start in another directory"
            return CannotStore(f"{path} is damaged: {error}", hint)
        case "BUSY" | "LOCKED":
            return CannotStore(f"{path} is held by another program: {error}", "close it, then try again")
        case "IOERR":
            return CannotStore(f"{path} cannot be read or written: {error}", "look at the disk, then try again")
        case _:
            return CannotStore(f"{path}: {error}", "look at the disk and the directory, then try again")
