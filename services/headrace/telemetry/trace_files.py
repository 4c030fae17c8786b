"""Spans to bounded files of OTLP JSON lines: where they go without a collector. `reading` reads them back."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from io import FileIO
from pathlib import Path
from typing import Final

from headrace.config import TelemetrySettings
from headrace.telemetry.export import Outcome, Sections
from headrace.telemetry.form import Encoding
from headrace.telemetry.otlp_json import JsonEncoding

log = logging.getLogger(__name__)

MAX_PIECES: Final = 1024
"""How many one writev takes: IOV_MAX."""


class FileExporter:
    """JSON lines in a folder that several processes share.

    What is to be kept has files of its own, and so lasts longer: the others push one another out.
    """

    page_spans = 256
    """Small enough to be written while the processor still has it at hand: large buffers cost more than the spans."""

    def __init__(self, settings: TelemetrySettings, stem: str) -> None:
        self.encoding: Encoding = JsonEncoding()
        name = f"{stem}-{os.getpid()}-{secrets.token_hex(3)}"
        bounds = settings.trace_dir, settings.max_file_bytes, settings.max_files
        self._others = RotatedFile(name, ".", *bounds)
        self._kept = RotatedFile(name, ".kept.", *bounds)

    def ready(self) -> bool:
        return True

    def try_now(self) -> None:
        pass

    def export(self, sections: Sections, spans: int, *, keep: bool) -> Outcome:
        file = self._kept if keep else self._others
        try:
            file.write(self.encoding.request(sections))
        except OSError as error:
            file.complain(error)
            return Outcome(failed=spans)
        return Outcome(exported=spans)

    def retry(self) -> Outcome:
        return Outcome()

    def interrupt(self) -> None:
        pass

    def close(self) -> Outcome:
        self._others.close()
        self._kept.close()
        return Outcome()


class RotatedFile:
    """`<name><kind><generation>.jsonl`, at most so many of so many bytes: the oldest goes when a new one has begun."""

    def __init__(self, name: str, kind: str, folder: Path, max_bytes: int, max_files: int) -> None:
        self._name = name
        self._kind = kind
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._written = 0
        self._generation = 0
        """Files begun."""
        self._file: FileIO | None = None
        self._complained = False

    def write(self, pieces: list[bytes]) -> None:
        """Append a line, without joining its pieces first: that would cost more than writing it.

        Raises: OSError; the next line tries another file.
        """
        size = sum(map(len, pieces))
        begun = self._file is None or self._written + size > self._max_bytes
        try:
            file = self._open(self._generation + 1) if begun else self._file
            assert file is not None, "This is a bug."
            _write_all(file.fileno(), pieces)
        except OSError:
            self.close()
            if begun:
                with contextlib.suppress(OSError):
                    self._path(self._generation + 1).unlink(missing_ok=True)
            raise
        self._complained = False
        if begun:  # only now: a disk that takes nothing must not cost what it took before
            self._begin_generation()
        self._written += size

    def complain(self, error: OSError) -> None:
        """Once, until a line can be written again."""
        if not self._complained:
            log.warning("traces can't be written to %s: %s", self._folder, error.strerror)
        self._complained = True

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self, generation: int) -> FileIO:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path(generation).open("wb", buffering=0)
        return self._file

    def _begin_generation(self) -> None:
        self._generation += 1
        self._written = 0
        self._path(self._generation - self._max_files).unlink(missing_ok=True)
        if self._generation == 1:
            self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        """Of processes that are gone, the newest files stay, as many as one process may have."""
        service = self._name.rsplit("-", 2)[0]
        mine = f"{self._name}."
        left = [path for path in self._folder.glob(f"{service}-*{self._kind}[0-9]*.jsonl") if _is_left(path, mine)]
        left = [path for path in left if (".kept." in path.name) == (self._kind == ".kept.")]
        for path in sorted(left, key=lambda p: p.stat().st_mtime, reverse=True)[self._max_files :]:
            path.unlink(missing_ok=True)

    def _path(self, generation: int) -> Path:
        return self._folder / f"{self._name}{self._kind}{generation}.jsonl"


def _is_left(path: Path, mine: str) -> bool:
    """The file's process is gone. A process id that has come back, as 1 does in a container, is not that process."""
    if path.name.startswith(mine):
        return False
    pid = path.name.split(".")[0].rsplit("-", 2)[-2]
    return pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists()


def _write_all(descriptor: int, pieces: list[bytes]) -> None:
    """Raises: OSError, also when the disk took a part only."""
    for first in range(0, len(pieces), MAX_PIECES):
        some = pieces[first : first + MAX_PIECES]
        if os.writev(descriptor, some) != sum(map(len, some)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
