"""The decision log: one JSON line per request, rotated by size; texts only if the configuration enables them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, call_as_object
from cuecard.domain.question import Image, Question
from cuecard.gateway.wire.request import ParsedRequest, RequestInfo
from cuecard.gateway.wire.values import RequestEnd, Unanswered, charge, usage

log = logging.getLogger("cuecard.gateway")


WRITTEN_AT_ONCE = 2**20
"""Bytes: a longer line is written in pieces."""
MOST_WAIT_S = 1.0
"""The longest that an answer waits until its line is written."""


def pictures(path: Path) -> Path:
    """The folder of images beside a journal that keeps content."""
    return path.with_name(f"{path.name}.images")


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


class LineFile(RotatingFileHandler):
    """A rotating file of lines. A line that cannot be written is dropped, with a warning that shows none of it."""

    def __init__(self, path: Path, most_bytes: int, keep: int) -> None:
        self._is_failing = False
        super().__init__(path, maxBytes=most_bytes, backupCount=keep, encoding="utf-8")

    def append(self, line: str) -> None:
        """Write a line."""
        self.handle(logging.LogRecord("cuecard.journal", logging.INFO, "", 0, line, None, None))
        if self._is_failing and self.stream is not None:
            log.warning("the journal is written again")
            self._is_failing = False

    def _open(self) -> TextIOWrapper:
        """Open the file, and end a last line that an earlier process left incomplete."""
        with open(self.baseFilename, "ab+", opener=private) as file:
            if os.path.isfile(self.baseFilename):
                os.chmod(self.baseFilename, 0o600)  # it may exist already
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        # a lone surrogate is written as JSON's own escape; a line is written at once, so that a kill does not cut it
        odd = "backslashreplace"
        return open(self.baseFilename, "a", WRITTEN_AT_ONCE, "utf-8", odd, "\n", opener=private)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the rest of the line, so that the next one begins on a line of its own."""
        error, stream = sys.exception(), self.stream
        self.stream = None
        with suppress(OSError):
            if stream is not None:
                stream.close()
        if not self._is_failing:
            log.warning("the journal cannot be written, and requests leave no line: %s", error)
        self._is_failing = True


async def written(line: Future[None] | None) -> None:
    """Wait until a line is written, but at most MOST_WAIT_S seconds."""
    if line is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(MOST_WAIT_S):
                await asyncio.shield(asyncio.wrap_future(line))


class Journal:
    """Appends requests that have ended, in a thread apart from the event loop.

    Without `content`, texts are kept as keyed hashes, and the key is lost with the process: equal texts have equal
    hashes within one run, and no text can be guessed.
    """

    def __init__(self, path: Path, *, content: bool = False, most_mib: float = 64, keep: int = 3) -> None:
        """Raises BadInput when the file cannot be written."""
        self._content, self._key = content, secrets.token_bytes(32)
        try:
            self._lines = LineFile(path, int(most_mib * 2**20), keep)
        except OSError as error:
            raise BadInput(f"cannot write the journal {path}: {error.strerror}", "give another path") from error
        self._pictures, self._kept = pictures(path), set[str]()
        self._writers = ThreadPoolExecutor(1, "journal")

    def write(self, info: RequestInfo, ended: Outcome | Unanswered, pair: str | None = None) -> Future[None] | None:
        """Write a request that has ended. No text is kept of a request that was passed on.

        The result is done when the line is written; None: the journal is closed.
        """
        question = info.question if isinstance(info, ParsedRequest) else None
        if self._content and question is not None:
            self._keep(question)
        calls = [call_as_object(call) for call in ended.calls]
        for call in calls:
            call["reasoning"], call["answer"] = self._text(call["reasoning"]), self._text(call["answer"])
        line = {
            "at": time.time(),
            "content": self._content,
            "id": info.id,
            "model": info.model,
            "pair": pair,
            "strategy": ended.strategy,
            "question": None if question is None else self._question(question),
            **self._end(ended),
            "usage": usage(ended),
            "charged_tokens": charge(ended.calls, info.prompt_tokens),
            "calls": calls,
        }
        with suppress(RuntimeError):  # closed: the gateway stops, and has cancelled this request
            return self._writers.submit(self._lines.append, json.dumps(line, ensure_ascii=False))
        return None

    def close(self) -> None:
        """Write all pending lines and close the file."""
        self._writers.shutdown()
        self._lines.close()

    def _end(self, ended: Outcome | Unanswered) -> dict[str, Any]:
        if isinstance(ended, Unanswered):
            error = None if ended.error is None else type(ended.error).__name__
            return {"end": ended.end, "route": None, "error": error, "latency": {"total_s": ended.total_s}}
        return {
            "end": RequestEnd.ANSWERED,
            "schedule": ended.schedule,
            "route": ended.route,
            "reason": ended.reason,
            "confidence": ended.confidence,
            "answer": self._text(ended.answer),
            "latency": {"total_s": ended.total_s, "handoff_s": ended.handoff_s, "kind": ended.latency_kind},
        }

    def _question(self, question: Question) -> dict[str, Any]:
        return {
            "kind": question.kind,
            "text": self._text(question.text),
            "options": [self._text(option) for option in question.options],
            "system": self._text(question.system),
            "schema": self._text(question.schema),
            "calling": question.calling,
            "history": [[turn.role, self._text(turn.text), self._images(turn.images)] for turn in question.history],
            "images": self._images(question.images),
        }

    def _images(self, images: Sequence[Image]) -> list[str | None]:
        return [self._text(image.digest) for image in images]

    def _keep(self, question: Question) -> None:
        """Write images that are not kept yet into the folder, in the writer's thread."""
        shown = [question.images, *(turn.images for turn in question.history)]
        for image in {image.digest: image for images in shown for image in images}.values():
            if image.digest not in self._kept:
                self._kept.add(image.digest)
                with suppress(RuntimeError):  # as for lines
                    self._writers.submit(self._write_image, image)

    def _write_image(self, image: Image) -> None:
        file = self._pictures / image.digest
        try:
            self._pictures.mkdir(mode=0o700, exist_ok=True)
            with open(part := file.with_suffix(".part"), "wb", opener=private) as opened:
                opened.write(image.data)
            part.replace(file)
        except OSError as error:  # as for lines: the request is answered all the same
            self._kept.discard(image.digest)
            log.warning("cannot keep an image beside the journal: %s", error.strerror)

    def _text(self, text: str | None) -> str | None:
        if text is None or self._content:
            return text
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]
