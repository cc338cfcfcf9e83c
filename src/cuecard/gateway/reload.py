"""Reloads the configuration's file at SIGHUP, or when it changes; requests under way continue."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.gateway.admission.keys import Gate
from cuecard.gateway.config.config import Config
from cuecard.gateway.pairs import Pairs
from cuecard.models.base import Model

POLL_S = 1.0
RESTART = ("server", "images", "audit", "journal")
"""Tables whose settings hold from the start of the gateway."""
Stamp = tuple[int, int, int] | None


class Reloader:
    """Applies changes of a file. One that cannot be read, or served, changes nothing, and a line says so."""

    def __init__(
        self,
        file: Path,
        read: Callable[[], Config],
        running: Config,
        pairs: Pairs,
        gate: Gate,
        *,
        tell: Callable[[str], None],
        poll_s: float = POLL_S,
    ) -> None:
        """`read` reads the file; `running` is the configuration that the gateway started with."""
        self._file, self._read, self._started = file, read, running
        self._pairs, self._gate, self._tell, self._poll_s = pairs, gate, tell, poll_s
        self._applied = self._seen = stamp(file)

    async def follow(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        """Reload at each signal or change, until this is cancelled.

        `count` gets each result, `ok` or `failed`; `arrived` gets the models that are new.
        """
        signalled, loop = asyncio.Event(), asyncio.get_running_loop()
        hang_up = getattr(signal, "SIGHUP", None)
        if hang_up is not None:
            with suppress(ValueError, RuntimeError):  # not in the main thread: only the file is watched
                loop.add_signal_handler(hang_up, signalled.set)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(signalled.wait(), self._poll_s)
                if signalled.is_set() or self._has_changed():
                    signalled.clear()
                    await self._reload(count, arrived)
        finally:
            if hang_up is not None:
                with suppress(ValueError, RuntimeError):
                    loop.remove_signal_handler(hang_up)

    def _has_changed(self) -> bool:
        """The file has changed, and was the same in two polls: it is not being written."""
        before, self._seen = self._seen, stamp(self._file)
        return self._seen == before != self._applied

    async def _reload(self, count: Callable[[str], None], arrived: Callable[[Collection[Model]], Any]) -> None:
        self._applied = self._seen = stamp(self._file)
        try:
            config = await asyncio.to_thread(self._read)
            if self._started.keys and not config.keys:
                raise BadInput("it has no [[keys]] any more", "restart the gateway to let everybody in")
            if config.ledger_path is not None and self._gate.ledger.path is None:
                self._gate.ledger.keep_in(config.ledger_path)
            new = await self._pairs.renew(config)
        except Exception as error:
            words = error if isinstance(error, CuecardError) else f"{type(error).__name__}: {error}"
            self._tell(f"{self._file} was not taken over, what was read before holds: {words}".replace("\n", " "))
            count("failed")
            return
        self._gate.renew([entry.key() for entry in config.keys])
        self._tell(self._words(config))
        count("ok")
        arrived(new)

    def _words(self, config: Config) -> str:
        words = f"{self._file} was read again: pairs {', '.join(config.pairs)}; {len(config.keys)} keys"
        late = restarting(self._started, config)
        return f"{words}; these need a restart: {', '.join(late)}" if late else words


def restarting(one: Config, other: Config) -> list[str]:
    """Names of settings that differ and need a restart."""
    tables: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
        name: (getattr(one, name).model_dump(), getattr(other, name).model_dump()) for name in RESTART
    }
    return [f"{name}.{key}" for name, (was, now) in tables.items() for key in was if was[key] != now[key]]


def stamp(file: Path) -> Stamp:
    """Changes when the file does; None: there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
