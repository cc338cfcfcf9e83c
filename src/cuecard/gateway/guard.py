"""Connections whose clients are too slow or say too much before their request begins."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_S, BODY_S, SEND_S = 15.0, 60.0, 60.0
"""How long a client may take for its headers, for its body, and to take what it is sent."""
MOST_HEAD_BYTES = 64 * 1024
"""Of the address and the headers of one request."""


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with limits on the head of a request, which it has none of."""

    head_s, most_head_bytes = HEAD_S, MOST_HEAD_BYTES

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_bytes, self._in_head = 0, True
        self._head_timer = self.loop.call_later(self.head_s, self._refuse, 408, b"the headers took too long")

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.most_head_bytes:
            self._refuse(431, b"the address or the headers are too long")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:  # a further request on the same connection
            self._head_bytes, self._in_head = 0, True
            self._head_timer = self.loop.call_later(self.head_s, self._refuse, 408, b"the headers took too long")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_timer.cancel()
        super().on_headers_complete()

    def _refuse(self, status: int, why: bytes) -> None:
        if not self.transport.is_closing():
            head = STATUS_LINE[status] + b"content-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n%s" % (len(why), why))
            self.transport.close()
