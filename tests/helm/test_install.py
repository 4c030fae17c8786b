"""A life of a release, with real helm: installed, upgraded, refused, rolled back, taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helm import chart, fake_api
from tests.helm.cases import EVERYTHING, HPA
from tests.helm.chart import CHART, NAMESPACE, merged

pytestmark = [pytest.mark.slow, pytest.mark.chart, pytest.mark.usefixtures("crds")]

LEDGER = "risk-headrace-control"
"""The claim with the ledger outlives the release."""


class Installed:
    """One helm and its API server."""

    def __init__(self, which: str, home: Path, server: fake_api.Server) -> None:
        self.which, self.home, self.store = which, home, server.store
        self.api = ["--namespace", NAMESPACE, "--kube-apiserver", server.address, "--kube-token", "t"]

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> Any:
        given = ["--values", "-"] if values is not None else []
        return chart.helm(
            self.which, *arguments, *given, *self.api, given=json.dumps(values or {}), home=str(self.home)
        )

    def does(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        done = self.run(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def is_there(self, kind: str) -> bool:
        return any(name.startswith(f"{kind}/") for name in self.store.names())


@pytest.fixture
def helm(which: str, tmp_path: Path) -> Iterator[Installed]:
    with fake_api.running() as server:
        yield Installed(which, tmp_path, server)


def test_a_release_lives(helm: Installed) -> None:
    said = helm.does("install", "risk", str(CHART), values=HPA)
    first = helm.store.names()

    assert "risk-headrace" in said
    assert helm.is_there("HorizontalPodAutoscaler")
    assert not helm.is_there("ScaledObject")

    helm.does("upgrade", "risk", str(CHART), values=EVERYTHING)

    assert helm.is_there("ScaledObject")
    assert not helm.is_there("HorizontalPodAutoscaler")

    helm.does("rollback", "risk", "1")
    history = json.loads(helm.does("history", "risk", "--output", "json"))

    assert helm.store.names() == first
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "deployed"]
    assert helm.does("get", "notes", "risk")

    helm.does("uninstall", "risk")

    assert [path.rpartition("/")[2] for path in helm.store.objects] == [LEDGER]


def test_what_the_api_refuses_is_no_release(helm: Installed) -> None:
    helm.does("install", "risk", str(CHART), values=EVERYTHING)
    bogus = {"requiredDuringScheduling": []}
    refused = helm.run("upgrade", "risk", str(CHART), values=merged(EVERYTHING, {"gateway": {"affinity": bogus}}))

    assert refused.returncode != 0
    assert "requiredDuringScheduling" in refused.stderr
    assert json.loads(helm.does("history", "risk", "--output", "json"))[0]["status"] == "deployed"
