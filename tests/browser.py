"""A headless Chromium, spoken to over a pipe: no driver, no network, no package.

Its protocol is JSON documents that end in a zero byte, read from descriptor 3 and written to 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


class Page:
    """A page that is open."""

    def __init__(self, read: BinaryIO, write: BinaryIO) -> None:
        self._read, self._write = read, write
        self._sent, self._session, self._rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "Accessibility"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol, and wait for what it gives."""
        self._sent += 1
        call: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session:
            call["sessionId"] = self._session
        self._write.write(json.dumps(call).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._read.fileno(), 1 << 20)
            assert data, "the browser went away"
            self._rest += data
        document, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(document)
        return answer

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.do("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def size(self, width: int, *, phone: bool = False) -> None:
        """Take the width of a window, or that of a phone."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900,
                deviceScaleFactor=1, mobile=phone)  # fmt: skip

    def media(self, kind: str = "screen", *, dark: bool = False) -> None:
        """Look at it on a screen or on paper, in light or dark."""
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", media=kind, features=[theme])

    def value(self, expression: str) -> Any:
        """Give what an expression of JavaScript comes to."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        text = {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                    code="Space" if key == " " else key, **text)  # fmt: skip

    def spoken(self) -> list[tuple[str, str]]:
        """List what a screen reader is given: role and name of all that it would not skip."""
        nodes = self.do("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "").strip())
            for node in nodes
            if not node["ignored"]
        ]

    def shot(self, path: Path) -> None:
        """Take a picture of all of it."""
        data = self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def paper(self) -> bytes:
        """Print it."""
        return base64.b64decode(self.do("Page.printToPDF")["data"])


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start a browser whose profile lies in ``folder``; it is gone in the end."""
    to_read, to_write = os.pipe(), os.pipe()
    # A shell puts the pipes where Chromium looks for them.
    start = f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={folder}"]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", start, "chromium", *command],
        pass_fds=(to_read[0], to_write[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        with os.fdopen(to_write[0], "rb") as read, os.fdopen(to_read[1], "wb") as write:
            page = Page(read, write)
            yield page
            page.do("Browser.close")
    finally:
        process.kill()
        process.wait()
