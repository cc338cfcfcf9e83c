"""The decision log: a line of JSON a request, rotated by size; what was said only if that is asked for."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome
from cuecard.domain.plain import call_as_object
from cuecard.domain.question import Question
from cuecard.gateway.chat import Asked, usage


class Journal:
    """Appends what was decided, off the event loop's thread.

    Without `content`, texts are kept as keyed hashes whose key is forgotten at the end of the process: equal texts can
    be told to be equal within one run, and none can be guessed.
    """

    def __init__(self, path: Path, *, content: bool = False, most_mib: float = 64, keep: int = 3) -> None:
        """Raises BadInput when the file cannot be written."""
        self._content, self._key = content, secrets.token_bytes(32)
        try:
            file = RotatingFileHandler(path, maxBytes=int(most_mib * 2**20), backupCount=keep, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"cannot write the journal {path}: {error.strerror}", "give another path") from error
        lines: SimpleQueue[Any] = SimpleQueue()
        self._handler, self._listener = QueueHandler(lines), QueueListener(lines, file)
        self._file = file
        self._listener.start()

    def write(self, asked: Asked, outcome: Outcome) -> None:
        """One request that is over."""
        question = asked.question
        calls = [call_as_object(call) for call in outcome.calls]
        for call in calls:
            call["reasoning"], call["answer"] = self._text(call["reasoning"]), self._text(call["answer"])
        told = {
            "at": time.time(),
            "id": asked.id,
            "model": asked.model,
            "strategy": outcome.strategy,
            "schedule": outcome.schedule,
            "route": outcome.route,
            "reason": outcome.reason,
            "confidence": outcome.confidence,
            "question": self._question(question),
            "answer": self._text(outcome.answer),
            "latency": {"total_s": outcome.total_s, "handoff_s": outcome.handoff_s, "kind": outcome.latency_kind},
            "usage": usage(outcome),
            "calls": calls,
        }
        line = json.dumps(told, ensure_ascii=False)
        self._handler.emit(logging.LogRecord("cuecard.journal", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Everything is in the file when this returns."""
        self._listener.stop()
        self._file.close()

    def _question(self, question: Question) -> dict[str, Any]:
        return {
            "kind": question.kind,
            "text": self._text(question.text),
            "options": [self._text(option) for option in question.options],
            "system": self._text(question.system),
            "history": [[said.role, self._text(said.text)] for said in question.history],
            "images": [self._text(image.digest) for image in question.images],
        }

    def _text(self, text: str | None) -> str | None:
        if text is None or self._content:
            return text
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]
