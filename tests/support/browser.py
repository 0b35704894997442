"""A headless Chromium, spoken to over a pipe, for tests of the status page.

External specification: Chrome DevTools Protocol, `--remote-debugging-pipe`: JSON messages on the
browser's descriptors 3 and 4, each ended by a NUL. Only what the tests need: open a page, evaluate,
wait for a condition, emulate a screen, take a picture, and everything that the page complained of.

    with Browser(directory) as browser:
        page = browser.open("http://127.0.0.1:8080/")
        page.wait("document.title.includes('streaming')")
        page.picture(directory / "page.png")
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import selectors
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROGRAM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING: Final = "Chromium is not installed (Debian's package chromium)"
PATIENCE_SECONDS: Final = 30.0
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One process; pages are tabs of it."""

    def __init__(self, directory: Path) -> None:
        assert PROGRAM is not None, MISSING
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self.events: list[dict[str, Any]] = []
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        # Above those that they become in the browser, so that neither is overwritten on the way.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
        log = os.open(directory / "chromium.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        actions = [
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        self._pid = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *_FLAGS, f"--user-data-dir={directory / 'profile'}"],
            {**os.environ, "HOME": str(directory)},
            file_actions=actions,
            setsid=True,
        )
        for fd in (theirs_in, theirs_out, *high, log):
            os.close(fd)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ)

    def open(self, url: str, *, width: int = 1100, height: int = 900, dark: bool = False) -> Page:
        """A new tab on this address, with a screen of this size."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = {"targetId": target, "flatten": True}
        page = Page(self, self.call("Target.attachToTarget", attached)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.screen(width=width, height=height, dark=dark)
        page.call("Page.navigate", {"url": url})
        return page

    def call(self, method: str, parameters: Any = None, session: str | None = None) -> Any:
        """The result of a command; AssertionError if the browser refuses it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not self._selector.select(PATIENCE_SECONDS):
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise EOFError("the browser has ended")
            self._received += chunk
        message, _, rest = self._received.partition(b"\0")
        self._received = bytearray(rest)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)  # its own session: all of its processes
        os.waitpid(self._pid, 0)
        self._selector.close()
        os.close(self._write)
        os.close(self._read)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, parameters: Any = None) -> Any:
        """A command about this tab."""
        return self._browser.call(method, parameters, self._session)

    def screen(self, *, width: int, height: int, dark: bool = False) -> None:
        """Another screen, and whether its owner likes it dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]})

    def value(self, expression: str) -> Any:
        """What the expression gives there."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, element: str) -> str:
        """The text of the element with this id."""
        return str(self.value(f"document.getElementById({element!r}).innerText"))

    def wait(self, condition: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once the condition holds; it is looked at with every picture that is drawn."""
        deadline = time.monotonic() + seconds
        while not self.value(
            f"new Promise(done => setTimeout(() => done(Boolean({condition})), 50))"
        ):
            assert time.monotonic() < deadline, f"never true: {condition}\n{self.complaints()}"

    def complaints(self) -> list[str]:
        """Errors of scripts, refusals by the policy, requests that went elsewhere or failed."""
        self.value("1")  # whatever was sent before has arrived then
        told: list[str] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                told.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                told.append(parameters["entry"]["text"])
        return told

    def requested(self) -> set[str]:
        """Every address that the page asked for."""
        self.value("1")
        return {
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("sessionId") == self._session
            and event["method"] == "Network.requestWillBeSent"
        }

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        asked = {"format": "png", "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", asked)["data"]))
