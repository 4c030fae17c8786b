"""What `headrace` says of itself."""

from __future__ import annotations

from importlib import metadata

from typer.testing import CliRunner

from headrace.cli import app


def test_the_version_is_that_of_the_package() -> None:
    said = CliRunner().invoke(app, ["--version"])

    assert said.exit_code == 0
    assert said.stdout == f"{metadata.version('headrace')}\n"
