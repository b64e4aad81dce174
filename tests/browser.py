"""Chromium for tests that must see a page as a person does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE_SECONDS


class BrowserError(RuntimeError):
    """Chromium could not do it."""


class Browser:
    """Chromium over its debugging pipe; the standard library is enough for that."""

    def __init__(self, chromium: str, profile: str) -> None:
        down_read, self.down = os.pipe()
        self.up, up_write = os.pipe()

        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        flags += " --disable-background-networking --disable-component-update --disable-sync"
        pipes = f'exec "$@" 3<&{down_read} 4>&{up_write}'
        command = [chromium, *flags.split(), f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", *command, "--remote-debugging-pipe", "about:blank"],
            pass_fds=(down_read, up_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self.rest, self.events, self.last = b"", [], 0
        self.session = None
        self.session = self.send("Target.attachToTarget", targetId=self._page(), flatten=True)[
            "sessionId"
        ]

    def _page(self) -> str:
        for _ in range(100):
            for target in self.send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return target["targetId"]
            time.sleep(0.1)
        raise AssertionError("Chromium opened no page")

    def _read(self) -> dict:
        while b"\0" not in self.rest:
            more = os.read(self.up, 1 << 16)
            assert more, "Chromium went away"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def send(self, method: str, **params) -> dict:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.down, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self.last:
            self.events.append(answer)
        if "result" not in answer:
            raise BrowserError(f"{method} {params}: {answer['error']['message']}")
        return answer["result"]

    def ask(self, expression: str):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        os.close(self.down)
        os.close(self.up)

    def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            # While a page is loaded anew there is none to ask.
            with suppress(BrowserError):
                if value := self.ask(expression):
                    return value
            time.sleep(0.2)
        text = self.ask("document.body.innerText")
        raise AssertionError(f"never true: {expression}\nthe page says: {text}")

    def picture(self, path: Path, *, width: int = 1280, height: int = 800) -> None:
        """A screenshot of the page as PNG."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser without a window; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    browser = Browser(chromium, str(profile))
    try:
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.send(f"{domain}.enable")
        yield browser
    finally:
        browser.close()
