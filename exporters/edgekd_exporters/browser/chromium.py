"""One page in a real Chromium of its own, driven through Playwright.

Playwright's event loop runs in a thread of ours, so that any thread may ask, every question has
a time limit, and a page that hangs can be ended from outside.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from edgekd.errors import InconclusiveError, MissingDependency

if TYPE_CHECKING:
    import psutil

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")
_DEVICES = {
    "wasm": ("--disable-gpu",),
    "webgpu": (*_WEBGPU, "--use-angle=vulkan"),
    "webgpu-software": (*_WEBGPU, "--use-webgpu-adapter=swiftshader"),
}
_START_LIMIT, _CLOSE_LIMIT = 60.0, 5.0


class PageError(Exception):
    """The page threw; the message is its own."""


def program() -> str:
    """The Chromium to drive: ``EDGEKD_CHROMIUM``, or the first on the path.

    Raises :class:`MissingDependency` where there is none.
    """
    named = os.environ.get("EDGEKD_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        why = f"is not at {named} (EDGEKD_CHROMIUM)" if named else "is not installed"
        raise MissingDependency(
            f"Chromium {why}, and browser bundles run in it; run: apt-get install chromium"
        )
    return found


class Chromium:
    """A headless Chromium that shows ``url``; its profile is empty and removed at the end.

    Raises :class:`MissingDependency` without Playwright or a Chromium that starts.
    """

    def __init__(self, url: str, device: str = "wasm") -> None:
        try:
            from playwright import async_api
        except ImportError as error:
            raise MissingDependency(
                "Playwright is not installed, and it drives the browser; run:"
                " pip install 'edgekd[browser]'"
            ) from error
        self._playwright_error = async_api.Error
        self._program = program()
        self._url = url
        self._device = device
        self._driver: Any = None
        self._context: Any = None
        self._page: Any = None
        self._profile = tempfile.mkdtemp(prefix="edgekd-chromium-")
        self._loop = asyncio.new_event_loop()
        self._drivers = _started_by(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self._page = self._ask(self._start(async_api.async_playwright()), _START_LIMIT)
        except PageError as error:
            self.close()
            raise MissingDependency(
                f"{self._program} does not start ({error}); run it by hand to see why, or name"
                " another in EDGEKD_CHROMIUM"
            ) from error
        except BaseException:
            self.close()
            raise

    async def _start(self, playwright: Any) -> Any:
        self._driver = await playwright.start()
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._context = await self._driver.chromium.launch_persistent_context(
            self._profile,
            executable_path=self._program,
            headless=True,
            chromium_sandbox=not root,  # Chromium refuses its sandbox to root
            args=[*_ARGUMENTS, *_DEVICES[self._device]],
            timeout=_START_LIMIT * 1e3,
        )
        self.version = self._context.browser.version if self._context.browser else ""
        page = self._context.pages[0]
        await page.goto(self._url, timeout=_START_LIMIT * 1e3)
        return page

    def call(self, function: str, argument: Any = None, seconds: float = 60.0) -> Any:
        """Call a JavaScript function in the page with a JSON value; return what it resolves to.

        Raises :class:`PageError` where it throws, and :class:`InconclusiveError` where the page
        crashes or does not answer for ``seconds``; the browser is then gone.
        """
        return self._ask(self._page.evaluate(function, argument), seconds)

    def processes(self) -> list[psutil.Process]:
        """Every process of this browser that is alive."""
        import psutil

        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(self._profile in argument for argument in process.cmdline()):
                    family = [process, *process.children(recursive=True)]
                    found |= {member.pid: member for member in family}
        return list(found.values())

    def close(self) -> None:
        """End the browser and all its processes; safe to call twice.

        Killed rather than asked: its profile is thrown away, so it has nothing to save.
        """
        import psutil

        if self._loop.is_closed():
            return
        atexit.unregister(self.close)
        family = self.processes()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + _CLOSE_LIMIT
        while any(map(runs, family)) and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(self._profile, ignore_errors=True)
        if self._driver is not None:
            with contextlib.suppress(Exception):  # a driver that died with its browser
                self._run(self._driver.stop(), _CLOSE_LIMIT)
        with contextlib.suppress(Exception):  # one that never answered, or never stopped
            self._run(_end(self._drivers), _CLOSE_LIMIT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_LIMIT)
        if not self._loop.is_running():
            self._loop.close()

    def _ask(self, question: Coroutine[Any, Any, Any], seconds: float) -> Any:
        try:
            return self._run(question, seconds)
        except self._playwright_error as error:
            first = str(error).strip().partition("\n")[0]
            if self._page is None:
                raise PageError(_complaint(str(error)) or first) from error
            if "crashed" not in first and "closed" not in first:
                raise PageError(first.partition(": ")[2] or first) from error
            self.close()
            raise InconclusiveError(
                "Chromium ended while it ran the page (killed, or out of memory); nothing was"
                " measured, try again"
            ) from error
        except concurrent.futures.TimeoutError as error:
            started = self._page is not None
            self.close()
            if not started:
                raise InconclusiveError(
                    f"Chromium did not show a page within {seconds:.0f} s and was ended; try again"
                    f" when the machine is less busy, or run {self._program} by hand to see why"
                ) from error
            raise InconclusiveError(
                f"the page in Chromium did not answer for {seconds:.0f} s and was ended; a slower"
                " model needs a larger time_limit"
            ) from error

    def _run(self, question: Coroutine[Any, Any, Any], seconds: float) -> Any:
        if self._loop.is_closed():
            question.close()
            raise InconclusiveError("this browser session is over; open the bundle again")
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(seconds)


def _started_by(loop: asyncio.AbstractEventLoop) -> list[asyncio.SubprocessTransport]:
    """The processes that ``loop`` will have started: Playwright's driver, whatever becomes of it."""
    start = loop.subprocess_exec
    started: list[asyncio.SubprocessTransport] = []

    async def noted(*arguments: Any, **options: Any) -> Any:
        transport, protocol = await start(*arguments, **options)
        started.append(transport)
        return transport, protocol

    loop.subprocess_exec = noted  # type: ignore[method-assign]
    return started


async def _end(started: list[asyncio.SubprocessTransport]) -> None:
    for transport in started:
        transport.close()  # kills it where it still runs
        while transport.get_returncode() is None:
            await asyncio.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    """Whether ``process`` still runs; one that only waits to be reaped does not."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _complaint(text: str) -> str:
    """The last thing that a Chromium which did not start said on its standard error."""
    said = re.findall(r"\[err\] (.+)", text)
    return " ".join(said[-1].split())[:300] if said else ""
