"""Free ports, and processes that descend from another one, from /proc."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def descendants(ancestor: int, name: str) -> list[int]:
    """Ids of processes that descend from another one, and whose command begins with `name`."""
    parents, found = dict[int, int](), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            result, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(result.rpartition(")")[2].split()[1])
            if command.startswith(name.encode()):
                found.append(int(folder.name))

    def descends(process: int) -> bool:
        return process == ancestor or (process in parents and descends(parents[process]))

    return sorted(filter(descends, found))
