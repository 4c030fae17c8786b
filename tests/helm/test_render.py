"""Both helms render the chart, the same on each Kubernetes, into objects that an API server takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.helm import schemas
from tests.helm.cases import CASES, EVERYTHING
from tests.helm.chart import CHART, HELMS, KUBE_VERSIONS, Refusal, helm, render
from tests.helm.conftest import Rendered
from tests.helm.release import Release, title

CRD_KINDS = {"RayService", "ScaledObject", "PodMonitor", "ServiceMonitor", "PrometheusRule", "GRPCRoute"}


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_complain_about(which: str, case: str) -> None:
    done = helm(which, "lint", "--strict", str(CHART), "--values", "-", given=json.dumps(CASES[case]))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_both_helms_make_the_same_objects(rendered: Rendered, case: str) -> None:
    four, three = (rendered(CASES[case], which=which) for which in HELMS)

    assert {title(one): one for one in four.objects} == {title(one): one for one in three.objects}


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_values_say_what_is_rendered_not_the_cluster(rendered: Rendered, case: str, kube_version: str) -> None:
    assert rendered(CASES[case], kube_version=kube_version).objects == rendered(CASES[case]).objects


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_every_object_of_its_own(rendered: Rendered, case: str, kube_version: str) -> None:
    objects = rendered(CASES[case], kube_version=kube_version).objects
    found = [said for one in objects if one["kind"] not in CRD_KINDS for said in schemas.complaints(one, kube_version)]

    assert found == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("crds")
def test_operators_take_every_object_of_theirs(rendered: Rendered, case: str) -> None:
    objects = rendered(CASES[case]).objects
    found = [said for one in objects if one["kind"] in CRD_KINDS for said in schemas.complaints(one, "1.33")]

    assert found == []


@pytest.mark.usefixtures("crds")
def test_everything_is_everything(rendered: Rendered) -> None:
    """No kind that the chart can make has escaped the cases."""
    made = {found["kind"] for case in CASES.values() for found in rendered(case).objects}
    known = {
        kind
        for file in CHART.glob("templates/**/*.yaml")
        for kind in re.findall(r"^kind: (\w+)", file.read_text(), re.MULTILINE)
    }

    assert made >= CRD_KINDS - {"ServiceMonitor"} | known


@pytest.mark.usefixtures("crds", "helm_4")
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        (
            "RayService",
            ("spec", "serveConfigV2"),
            "applications: [{name: a, import_path: headrace.serving.app:build, named: b}]",
        ),
        ("RayService", ("spec", "rayClusterConfig", "minReplcas"), 1),
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 1),
        ("NoSuchKind", ("kind",), "NoSuchKind"),
    ],
)
def test_a_typo_is_found_wherever_it_stands(rendered: Rendered, kind: str, path: tuple[str, ...], value: Any) -> None:
    objects = rendered(CASES["defaults"]).objects
    whole = json.loads(json.dumps(next((one for one in objects if one["kind"] == kind), {**objects[0], "kind": kind})))
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value

    (said,) = schemas.complaints(whole, "1.33")
    assert {"serveConfigV2": "named"}.get(path[-1], path[-1] if path != ("kind",) else "no schema") in said


def test_the_notes_tell_how_to_call_and_how_to_test(which: str, tmp_path: Path) -> None:
    """No cluster, no install: the notes are rendered as a ConfigMap of a copy of the chart."""
    copy = tmp_path / "headrace"
    shutil.copytree(CHART, copy)
    shutil.move(copy / "templates" / "NOTES.txt", copy / "notes.txt")
    said = '{{ tpl (.Files.Get "notes.txt") . | toJson }}'
    (copy / "templates" / "notes.yaml").write_text(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: notes}}\ndata: {{notes: {said}}}\n"
    )
    for case in ("defaults", "bare", "everything-keda"):
        found = render(CASES[case], which=which, chart=copy)
        assert isinstance(found, Release), found.said
        (notes,) = [one["data"]["notes"] for one in found.of("ConfigMap") if one["metadata"]["name"] == "notes"]
        port = next(one for one in found.of("Service") if one["metadata"]["name"] == found.fullname)["spec"]["ports"][0]

        assert f"{found.fullname}" in notes
        assert str(port["port"]) in notes
        assert "helm test" in notes or not found.pods_of("test")


def test_a_package_holds_what_the_folder_holds(which: str, tmp_path: Path) -> None:
    done = helm(which, "package", str(CHART), "--destination", str(tmp_path), home=str(tmp_path / "home"))
    (package,) = tmp_path.glob("headrace-*.tgz")

    assert done.returncode == 0, done.stderr
    assert render(EVERYTHING, which=which, chart=package) == render(EVERYTHING, which=which)


def test_a_kubernetes_that_is_too_old_is_refused(which: str) -> None:
    found = render({}, which=which, kube_version="1.29")

    assert isinstance(found, Refusal)
    assert "kubeVersion" in found.said


@pytest.mark.usefixtures("helm_4")
def test_what_helm_makes_kubectl_reads(rendered: Rendered, tmp_path: Path) -> None:
    """The strict parser of the programs that will send it."""
    file = tmp_path / "all.json"
    core = [one for one in rendered(EVERYTHING).objects if one["kind"] not in CRD_KINDS]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": core}))
    kubectl = Path(__file__).parents[2] / "build" / "tools" / "helm-4" / "kubectl"
    done = subprocess.run(
        [kubectl, "label", "--local", "--filename", file, "a=b", "--output", "name"],
        capture_output=True,
        text=True,
        check=False,
        env={"KUBECONFIG": "/dev/null"},
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(core)
