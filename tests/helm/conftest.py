"""What every test of the chart starts from: real helm, or a skip that says which part is missing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm import chart, schemas, tools
from tests.helm.chart import CHART
from tests.helm.release import Release

Rendered = Callable[..., Release]


@pytest.fixture(scope="session", params=chart.HELMS)
def which(request: pytest.FixtureRequest) -> str:
    """One helm after the other."""
    _need(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def helm_4() -> str:
    _need("helm-4")
    return "helm-4"


def _need(which: str) -> None:
    if not (tools.TOOLS / which / "helm").exists():
        pytest.skip(f"{which} is not in build/tools: make chart-tools fetches it")


@pytest.fixture(scope="session")
def crds() -> None:
    """For tests that look into objects of CRDs."""
    if schemas.crd_dir() is None:
        pytest.skip(f"{schemas.CRD_DIR} names no folder with the JSON schemas of the CRDs")


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    """What the chart makes of a values file or a mapping; whatever is asked for twice is rendered once.

    `rendered(values, which="helm-4", kube_version="1.33", name="risk", folder=CHART)`. A refusal fails the test.
    """

    @functools.cache
    def cached(values: str, which: str, kube_version: str, name: str, folder: Path) -> Release:
        _need(which)
        found = chart.render(json.loads(values), which=which, kube_version=kube_version, name=name, chart=folder)
        assert isinstance(found, Release), found.said
        return found

    def rendering(
        values: Path | Mapping[str, Any],
        *,
        which: str = "helm-4",
        kube_version: str = "1.33",
        name: str = "risk",
        folder: Path = CHART,
    ) -> Release:
        tree = yaml.safe_load(values.read_text()) if isinstance(values, Path) else values
        return cached(json.dumps(tree or {}, sort_keys=True), which, kube_version, name, folder)

    return rendering
