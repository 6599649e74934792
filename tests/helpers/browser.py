"""Headless Chromium over its DevTools protocol: enough to open a page, ask it questions, and press keys.

No driver and no further package: the protocol is JSON over a web socket, and JupyterLab brings a client for those.
"""

import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ranks import wait_until
from websocket import WebSocket, create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The browser's path, None if there is none on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One open page."""

    def __init__(self, socket: WebSocket):
        self._socket, self._numbers = socket, itertools.count()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; what the page tells meanwhile is dropped."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float, what: str) -> Any:
        """Ask until the value is truthy; fails with a picture's worth of text if it never is."""
        t_end = time.monotonic() + seconds
        while time.monotonic() < t_end:
            if value := self.ask(expression):
                return value
            time.sleep(0.25)
        shown = self.ask("document.body.innerText.slice(0, 3000)")
        raise AssertionError(f"{what} did not come within {seconds:g} s; the page says: {shown}")

    def press(self, key: str) -> None:
        """A real key press in whatever has the focus."""
        described = {"key": key, "code": key, "windowsVirtualKeyCode": {"ArrowLeft": 37, "ArrowRight": 39}[key]}
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, **described)


@contextlib.contextmanager
def opened(url: str, profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, which ends with the block; `profile` is an empty folder for it."""
    command = [str(chromium()), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
    browser = subprocess.Popen([*command, "--window-size=1400,1000", "about:blank"], stderr=subprocess.DEVNULL)
    told = profile / "DevToolsActivePort"
    try:
        wait_until(lambda: browser.poll() is not None or (told.is_file() and told.read_text()), "the browser's port")
        with urllib.request.urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json", timeout=30) as answer:
            target = next(page for page in json.load(answer) if page["type"] == "page")
        with contextlib.closing(create_connection(target["webSocketDebuggerUrl"], timeout=180)) as socket:
            page = Page(socket)
            page.send("Page.enable")
            page.send("Emulation.setFocusEmulationEnabled", enabled=True)  # nobody looks, and yet keys go to the page
            page.send("Page.navigate", url=url)
            yield page
    finally:
        browser.terminate()
        try:
            browser.wait(30)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait(30)
