"""A child process that is kept running: started, watched, started again when it dies, stopped with a bounded wait.

Spawned, never forked; stopped by its own process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from headrace.errors import StartupError
from headrace.tasks import end

log = logging.getLogger(__name__)

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
HEALTHY_AFTER_S: Final = 10.0
"""A child that lived so long starts again at the first back-off."""
CHECK_PERIOD_S: Final = 1.0
CHECK_FAILURES: Final = 3
"""Failed health checks in a row after which a child counts as hung and is killed."""
MAX_FAILED_STARTS: Final = 3
EX_CONFIG: Final = 78
SUPERVISED: Final = "HEADRACE_SUPERVISED"
"""Set for a child: it stops when its standard input ends, which happens when its supervisor is gone, however."""
LAST_WORDS: Final = "HEADRACE_LAST_WORDS"
"""Set for a child: the file where it says why it can't start, for its supervisor to tell others."""


class Child:
    """`python -m headrace <arguments>`, kept alive."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        check: Callable[[], Awaitable[bool]] | None = None,
        niceness: int = 0,
        last_words: Path | None = None,
    ) -> None:
        self.name = name
        self._last_words = last_words
        self._niceness = niceness
        """Added to ours: how far it gives way to others of this machine."""
        self._arguments = arguments
        self._environment = {**(os.environ if environment is None else environment), SUPERVISED: "1"}
        if last_words is not None:
            self._environment[LAST_WORDS] = str(last_words)
        self._check = check
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start it, or start it again after `stop`."""
        self._stopping = False
        await self._spawn()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"keep-{self.name}")

    @property
    def refused(self) -> bool:
        """It has ended because it can't start as it was asked to, and is not started again."""
        return self._process is not None and self._process.returncode == EX_CONFIG

    def assert_starting(self, restarts: int = 0) -> None:
        """Raises: StartupError when the child can't start, with what it said of that if it has `last_words`.

        `restarts`: those it had when it was last known to be well.
        """
        if self.refused or self.restarts - restarts >= MAX_FAILED_STARTS:
            raise StartupError(self._said() or f"{self.name} did not start")

    def _said(self) -> str:
        if self._last_words is None or not self.refused:
            return ""
        with contextlib.suppress(OSError):
            return self._last_words.read_text().strip()
        return ""

    async def stop(self, timeout_s: float = 40.0) -> None:
        """SIGTERM, wait, SIGKILL if that takes too long. Cancellation: the child is killed."""
        self._stopping = True
        if self._keeper is not None:
            await end(self._keeper)
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)  # a stopped process could not hear it
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            log.warning("%s did not stop within %g s", self.name, timeout_s)
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "headrace",
            *self._arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,  # its end tells the child that we are gone
        )
        if self._niceness:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.nice(0) + self._niceness)

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping:
            begun = asyncio.get_running_loop().time()
            code = await self._until_it_ends()
            if code == EX_CONFIG:
                return
            lived_s = asyncio.get_running_loop().time() - begun
            failures = 0 if lived_s > HEALTHY_AFTER_S else failures + 1
            log.warning("%s ended with %s after %.1f s; starting it again", self.name, code, lived_s)
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            self.restarts += 1
            await self._spawn()

    async def _until_it_ends(self) -> int:
        """Its exit code. A child that answers no health check for a while is killed first."""
        assert self._process is not None, "This is a bug."
        ended = asyncio.ensure_future(self._process.wait())
        failed = 0
        while not ended.done():
            await asyncio.wait({ended}, timeout=CHECK_PERIOD_S)
            if self._check is None or ended.done():
                continue
            failed = 0 if await self._check() else failed + 1
            if failed >= CHECK_FAILURES:
                log.warning("%s answers no health check; killing it", self.name)
                self._process.kill()
        return ended.result()


class _UntilClosed(asyncio.Protocol):
    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped

    def connection_lost(self, _: Exception | None) -> None:
        self._stopped.set()


def leave_last_words(error: StartupError) -> None:
    """In a child that ends because of this: say it where its supervisor reads it."""
    if path := os.environ.get(LAST_WORDS):
        with contextlib.suppress(OSError):
            Path(path).write_text(str(error))


def leave_group() -> None:
    """In a child, before anything else: Ctrl-C is for the supervisor to pass on.

    A group of processes and no session: where Linux schedules sessions as groups (autogroup), how nice or idle a
    process is counts within its session alone. By the child, because not every event loop can have it done on the way.
    """
    if os.environ.get(SUPERVISED):
        with contextlib.suppress(OSError):  # it leads a session: whoever started it saw to that
            os.setpgid(0, 0)


async def stop_with_supervisor(stopped: asyncio.Event) -> None:
    """In a child: set `stopped` when the supervisor has gone, so that nothing outlives it."""
    if os.environ.get(SUPERVISED):
        await asyncio.get_running_loop().connect_read_pipe(lambda: _UntilClosed(stopped), sys.stdin)
