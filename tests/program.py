"""`cuecard` in a child process, forked from a process that has done most imports.

The imports take a second in a new interpreter, and no time after a fork. A test sees what a user sees: output, exit
code and files of a finished process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache

WARM = ("cuecard.models.local.model", "cuecard.models.openai", "cuecard.cli")


def run(*arguments: object, stdin: bytes = b"", timeout_s: float = 90, **settings: str):
    """Run `cuecard` with these arguments and environment variables; returns the result like `subprocess.run`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"} | settings
    argv = ["cuecard", *map(str, arguments)]
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(stdin)
        source.seek(0)
        channel, _ = _parent()
        channel.settimeout(timeout_s)
        request = json.dumps({"argv": argv, "environment": environment, "folder": os.getcwd()}).encode()
        socket.send_fds(channel, [len(request).to_bytes(4, "big")], [each.fileno() for each in (source, out, err)])
        channel.sendall(request)
        pid = int(channel.recv(16))
        try:
            code = int(channel.recv(16))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            channel.settimeout(None)
            channel.recv(16)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read().decode(), err.read().decode())


@cache
def _parent() -> tuple[socket.socket, subprocess.Popen]:
    """A channel to the parent process of all forks, and that process. It ends with this process."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    return ours, process


def _serve(channel: socket.socket) -> None:
    """Fork for each request, and send the child's process id and exit code. Returns only in the child."""
    for name in WARM:
        importlib.import_module(name)
    while True:
        size, descriptors, _, _ = socket.recv_fds(channel, 4, 3)
        if not size:
            sys.exit()
        request = json.loads(_read(channel, int.from_bytes(size, "big")))
        pid = os.fork()
        if pid == 0:
            channel.close()
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
                os.close(descriptor)
            os.chdir(request["folder"])
            os.environ.clear()
            os.environ.update(request["environment"])
            sys.argv = request["argv"]
            return
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(f"{pid:16}".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        channel.sendall(f"{code:16}".encode())


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += channel.recv(size - len(data))
    return data


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from cuecard.cli import main

    main()
