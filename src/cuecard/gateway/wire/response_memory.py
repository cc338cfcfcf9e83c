"""The latest items of the Responses API, for clients that send an earlier one back by its id alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.gateway.wire.usage import Json

MOST_CHARACTERS = 8_000_000
HINT = "send the item itself (store = false makes clients do so): the latest are kept, until the gateway ends"


class Memory:
    """Items by their ids, as many of the latest as have so many characters of JSON together."""

    def __init__(self, most_characters: int = MOST_CHARACTERS) -> None:
        self._items: dict[str, str] = {}
        self._most, self._characters = most_characters, 0

    def keep(self, item: Json) -> None:
        self._items[item["id"]] = text = json.dumps(item, ensure_ascii=False)
        self._characters += len(text)
        while self._characters > self._most:
            self._characters -= len(self._items.pop(next(iter(self._items))))

    def resolved(self, given: Sequence[Any]) -> Iterator[Any]:
        """Items of a request, with the kept ones in place of references to them. Raises BadInput."""
        referred: set[object] = set()
        for item in given:
            if not isinstance(item, dict) or item.get("type") != "item_reference":
                yield item
                continue
            identity = item.get("id")
            if not isinstance(identity, str) or identity not in self._items:
                raise BadInput(f"input refers to the item {str(identity)[:100]!r}, which is not kept here", HINT)
            if identity in referred:  # a short request would become a very long one
                raise BadInput(f"input refers to the item {identity!r} twice", "refer to it once")
            referred.add(identity)
            yield json.loads(self._items[identity])
