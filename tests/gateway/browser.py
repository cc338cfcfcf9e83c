"""A headless Chromium, controlled by the DevTools protocol over a socket, without a driver or a package."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

Json = dict[str, Any]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
)
ANSWER_S = 20.0
MOST_BYTES = 2**26
"""Limit of one message, large enough for a screenshot."""


class Tab:
    """One page, its requests and its errors."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._session: str | None = None
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        """URLs."""
        self.complaints: list[str] = []
        """Console errors and warnings, exceptions, and violations of the content security policy."""

    async def attach(self) -> None:
        """Open an empty page."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **params: Any) -> Json:
        """The result of a protocol command. Raises RuntimeError if it fails, AssertionError after ANSWER_S seconds."""
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        reply = {"id": number, "method": method, "params": params}
        reply |= {"sessionId": self._session} if self._session else {}
        self._writer.write(json.dumps(reply).encode() + b"\0")
        try:
            answer = await asyncio.wait_for(self._answers[number], ANSWER_S)
        except TimeoutError as error:
            raise AssertionError(f"no answer to {method}: {params}") from error
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: Json = answer["result"]
        return result

    async def listen(self) -> None:
        """Read messages of the browser until it closes the socket."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" not in message:
                    self._hear(message["method"], message.get("params", {}))
                elif not (waiting := self._answers[message["id"]]).done():
                    waiting.set_result(message)

    def _hear(self, method: str, params: Json) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(params["entry"]))

    async def open(self, url: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load a page in a window of this size (CSS pixels; narrow windows emulate a phone) and this colour scheme."""
        phone = width < 600
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), ANSWER_S)

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page. Raises RuntimeError with the exception that it throws."""
        reply = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"]["exception"].get("description"))
        return reply["result"].get("value")

    async def until(self, expression: str, seconds: float = 15.0) -> None:
        """Wait until an expression is true. Raises AssertionError with the text of the page."""
        look = f"(async () => {{ while (!({expression})) await new Promise((next) => setTimeout(next, 20)); }})()"
        try:
            await asyncio.wait_for(self.js(look), seconds)
        except TimeoutError as error:
            shown = await self.js("document.body.innerText")
            raise AssertionError(f"not true in {seconds} s: {expression}\n{shown}") from error

    async def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """Press and release a key; `code` is its Windows virtual-key code. Modifiers: 1 Alt, 2 Ctrl, 8 Shift."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    async def choose(self, selector: str, file: Path) -> None:
        """Select a file in a file input."""
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        reply = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(reply["data"])


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a new Chromium with its profile in `folder`."""
    assert CHROMIUM is not None
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_BYTES)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not run as root
    with theirs, (folder / "chromium.log").open("wb") as log:
        # Chromium reads commands from descriptor 3 and writes answers to 4
        command = [CHROMIUM, *FLAGS, *sandbox, f"--user-data-dir={folder / 'profile'}"]
        redirect = f'exec "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}'
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", redirect, "bash", *command), pass_fds=[theirs.fileno()], stdout=log, stderr=log
        )
    tab = Tab(reader, writer)
    listening = asyncio.create_task(tab.listen())
    try:
        await tab.attach()
        yield tab
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        writer.close()
        await listening
