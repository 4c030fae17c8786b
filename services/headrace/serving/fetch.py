"""A model version from an object store onto a node's disk: whole and verified, or not at all.

A replica calls it before it reads its version, so a new version needs no new pod. It never replaces what is there.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import fsspec

from headrace.errors import StartupError
from headrace_models import spec as disk

log = logging.getLogger(__name__)


def fetch(source: str, directory: Path) -> None:
    """Copy what is below this URI into the directory, which ends in the model's name and the version's number.

    Beside each other several replicas may fetch one version: the first to have it whole puts it in place.
    Raises: StartupError when it cannot be had, or is not what its spec says.
    """
    if directory.is_dir():
        return
    name, version = directory.parts[-2:]
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory.parent) as folder:
            fetched = Path(folder) / name / version
            _copy(source, fetched)
            disk.load_spec(fetched)
            _put(fetched, directory)
    except (OSError, ImportError, ValueError) as error:  # fsspec's: not there, not allowed, nothing that speaks it
        raise StartupError(f"{source}: cannot be fetched ({_one_line(error)})") from error
    except disk.SpecError as error:
        raise StartupError(f"{source}: {_one_line(error)}") from error
    log.info("fetched %s", source)


def _copy(source: str, folder: Path) -> None:
    store, root = fsspec.url_to_fs(source)
    folder.mkdir(parents=True)
    store.get(root.rstrip("/") + "/", f"{folder}/", recursive=True)


def _put(fetched: Path, directory: Path) -> None:
    """A folder that has something in it is never replaced: another replica was first."""
    with contextlib.suppress(OSError):
        fetched.rename(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} cannot be written")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
