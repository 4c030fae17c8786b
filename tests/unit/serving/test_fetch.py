"""A version from an object store: whole and verified in its place, or a refusal and nothing there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests import toy

from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.fetch import fetch

STORE = "memory://models/toy/1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """An object store in this process that holds one version."""
    version = toy.write(tmp_path / "written")
    memory = fsspec.filesystem("memory")
    memory.put(f"{version}/", "/models/toy/1/", recursive=True)
    yield memory
    memory.rm("/models", recursive=True)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("store")
def test_a_version_arrives_as_it_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "toy" / "1"

    fetch(STORE, directory)

    assert weights.read(directory).name == "toy"
    assert files(directory) == files(tmp_path / "written" / "toy" / "1")
    assert [path.name for path in directory.parent.iterdir()] == ["1"]


def test_what_is_there_is_left_alone(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    directory = tmp_path / "models" / "toy" / "1"
    fetch(STORE, directory)
    before = files(directory)
    store.rm("/models/toy/1", recursive=True)
    store.pipe("/models/toy/1/spec.yaml", b"name: another")

    fetch(STORE, directory)

    assert files(directory) == before


def test_replicas_that_fetch_at_once_end_up_with_one_whole_version(tmp_path: Path) -> None:
    # Of a folder: the store in memory has one cursor a file, which threads would move under each other.
    source = toy.write(tmp_path / "written").as_uri()
    directory = tmp_path / "models" / "toy" / "1"
    refused: list[Exception] = []
    together = threading.Barrier(6)

    def replica() -> None:
        together.wait(timeout=10)
        try:
            fetch(source, directory)
        except StartupError as error:
            refused.append(error)

    threads = [threading.Thread(target=replica) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert not refused
    assert files(directory) == files(tmp_path / "written" / "toy" / "1")
    assert [path.name for path in directory.parent.iterdir()] == ["1"]


def test_weights_that_are_not_those_of_the_spec_are_refused(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    (path,) = [path for path in store.find("/models/toy/1") if path.endswith(".safetensors")]
    content = bytearray(store.cat(path))
    content[-1] ^= 1
    store.pipe(path, bytes(content))
    directory = tmp_path / "models" / "toy" / "1"

    with pytest.raises(StartupError, match="digest is") as refused:
        fetch(STORE, directory)

    assert str(refused.value).startswith(f"{STORE}: ")
    assert not directory.exists()
    assert list(directory.parent.iterdir()) == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("memory://models/toy/2", "cannot be fetched"),
        ("nosuchthing://models/toy/1", "Protocol not known: nosuchthing"),
        ("file:///nonexistent/toy/1", "cannot be fetched"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(StartupError, match=said) as refused:
        fetch(source, tmp_path / "models" / "toy" / "2")

    assert "\n" not in str(refused.value)
    assert not (tmp_path / "models" / "toy" / "2").exists()


@pytest.mark.usefixtures("store")
def test_a_version_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="describes toy/1, but lies in another directory"):
        fetch(STORE, tmp_path / "models" / "toy" / "2")
